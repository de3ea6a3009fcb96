"""How stored recipes are read: `method` says at once which one it is, where a plain union tries them all."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Discriminator

from app.db.base import TELLS_APART
from app.domain.job import JobSpec
from app.domain.recipe import Recipe

StoredRecipe = Annotated[Recipe, Discriminator(TELLS_APART)]


@dataclass(frozen=True, kw_only=True)
class StoredSpec(JobSpec):
    """A job's spec as it comes from the database."""

    recipes: tuple[StoredRecipe, ...] = ()
