"""How deliveries bear with endpoints that fail."""

from app.domain import patience

DAY = 24 * 3600


def test_a_few_failures_cost_an_endpoint_nothing() -> None:
    assert [patience.rest_s(failures) for failures in range(3)] == [0] * 3


def test_an_endpoint_gets_one_message_at_a_time_until_it_has_taken_one() -> None:
    assert patience.in_flight_limit(proven=False) == 1
    assert patience.in_flight_limit(proven=True) == 2


def test_from_the_third_failure_in_a_row_an_endpoint_rests_twice_as_long_each_time_up_to_an_hour() -> None:
    assert [patience.rest_s(failures) for failures in range(3, 7)] == [10, 20, 40, 80]
    assert patience.rest_s(15) == patience.rest_s(10**9) == 3600


def test_an_endpoint_is_hopeless_after_five_days() -> None:
    assert not patience.is_hopeless(5 * DAY - 1)
    assert patience.is_hopeless(5 * DAY)
