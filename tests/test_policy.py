from djinn.policy import Candidate, choose_victim


def test_parked_goes_before_paused_and_the_longest_stopped_first():
    old, parked, young = (
        Candidate("old", False, False, 1, 10),
        Candidate("parked", False, True, 9, 10),
        Candidate("young", False, False, 5, 10),
    )
    assert choose_victim([young, old, parked], 100) is parked
    assert choose_victim([young, old], 100) is old


def test_who_does_not_fit_the_host_is_passed_over():
    large, small = Candidate("large", False, True, 1, 50), Candidate("small", False, False, 2, 5)
    assert choose_victim([large, small], 10) is small
    assert choose_victim([large], 10) is None
    assert choose_victim([], 10) is None


def test_who_is_waited_for_goes_last_but_goes():
    waited, other = Candidate("waited", True, True, 1, 10), Candidate("other", False, False, 2, 10)
    assert choose_victim([waited, other], 100) is other
    assert choose_victim([waited], 100) is waited
