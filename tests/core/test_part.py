import copy
import functools
import math
import pickle

import flax.linen as nn
import jax
import pytest

from jaxdl.core import InputError, Part


def scale(x, *, by=2.0):
    return x * by


def anything(**kw):
    return kw


class Holder:
    def method(self):
        return None


def test_a_call_is_the_target_with_the_keywords():
    assert Part(scale, by=3.0)(2.0) == 6.0


def test_keywords_of_the_call_win():
    assert Part(scale, by=3.0)(2.0, by=5.0) == 10.0


def test_a_linen_part_builds_the_module():
    assert Part(nn.Dense, use_bias=False)(4, name="x") == nn.Dense(4, use_bias=False, name="x")


def test_equality_and_hash():
    a, b = Part(nn.RMSNorm, epsilon=1e-5), Part(nn.RMSNorm, epsilon=1e-5)
    assert a == b and hash(a) == hash(b) and len({a, b}) == 1
    assert a != Part(nn.RMSNorm) and a != Part(nn.LayerNorm, epsilon=1e-5)
    assert hash(Part(scale, by=1.0)) != hash(Part(scale, by=2.0))


def test_unhashable_keywords_still_compare():
    part = Part(anything, table={"a": 1})
    assert part == Part(anything, table={"a": 1})
    with pytest.raises(TypeError, match="unhashable"):
        hash(part)


def test_it_is_frozen():
    part = Part(scale, by=1.0)
    with pytest.raises(AttributeError):
        part.target = print
    with pytest.raises(TypeError):
        part.kw["by"] = 2.0


def test_repr_is_what_one_writes():
    assert repr(Part(nn.RMSNorm, epsilon=1e-5)) == "Part(RMSNorm, epsilon=1e-05)"
    assert repr(Part(scale)) == "Part(scale)"


def test_keywords_may_be_called_target_and_self():
    assert Part(anything, target=1, self=2)(kw=3) == {"target": 1, "self": 2, "kw": 3}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_copies_are_equal(again):
    part = Part(scale, by=3.0)
    assert again(part) == part


def test_an_unknown_keyword_names_the_nearest():
    with pytest.raises(InputError, match=r"scale has no parameter 'bye'; did you mean 'by'\?"):
        Part(scale, bye=1)
    with pytest.raises(InputError, match=r"Dense has no parameter 'featurs'; did you mean 'featu"):
        Part(nn.Dense, featurs=1)


def test_wrapped_functions_and_builtins_are_targets():
    assert Part(jax.nn.relu)(-1.0) == 0
    assert Part(math.sqrt)(4.0) == 2


def local_class():
    class Local:
        pass

    return Local


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda x: x, "a lambda has no name .* move it to module level"),
        (functools.partial(scale, by=1), "a functools.partial does not compare; wrap it in Part"),
        (Holder().method, "Holder.method is a bound method; move it to module level"),
        (local_class(), "Local is made inside a function; move it to module level"),
        (nn.initializers.lecun_normal(), "init is made inside a function"),
        (3, "3 is neither a class nor a function"),
    ],
)
def test_a_target_that_cannot_be_found_again_is_refused(target, message):
    with pytest.raises(InputError, match=message):
        Part(target)
