"""The work: Celery tasks, the steps they run, the sandbox, and the engine."""
