from djinn.policy import Candidate, choose_victim


def test_parked_goes_before_paused_and_the_longest_stopped_first():
    old, parked, young = Candidate("old", False, 1, 10), Candidate("parked", True, 9, 10), Candidate("young", False, 5, 10)
    assert choose_victim([young, old, parked], 100) is parked
    assert choose_victim([young, old], 100) is old


def test_who_does_not_fit_the_host_is_passed_over():
    large, small = Candidate("large", True, 1, 50), Candidate("small", False, 2, 5)
    assert choose_victim([large, small], 10) is small
    assert choose_victim([large], 10) is None
    assert choose_victim([], 10) is None
