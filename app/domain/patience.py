"""How long deliveries bear with an endpoint that fails. Times are seconds."""

IN_FLIGHT = 2
FAILURES_IN_A_ROW = 3
FIRST_REST_S, LONGEST_REST_S = 10, 3600
GIVE_UP_S = 5 * 24 * 3600


def in_flight_limit(*, proven: bool) -> int:
    """How many deliveries an endpoint gets at once: one, until it is known to take them."""
    return IN_FLIGHT if proven else 1


def rest_s(failures: int) -> int:
    """How long an endpoint is left alone after so many failures in a row: from the third on, up to an hour.

    What waits for it makes no attempt meanwhile, so that endpoints that are down cost next to nothing,
    however much there is to tell them.
    """
    beyond = failures - FAILURES_IN_A_ROW
    return 0 if beyond < 0 else min(FIRST_REST_S * 2 ** min(beyond, 20), LONGEST_REST_S)


def is_hopeless(failing_s: float) -> bool:
    """Whether an endpoint that has done nothing but fail for so long is to be disabled: after five days."""
    return failing_s >= GIVE_UP_S
