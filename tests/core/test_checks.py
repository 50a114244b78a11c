import jax
import jax.numpy as jnp
import pytest

from jaxdl.core.checks import check_shapes, letters
from jaxdl.core.errors import InputError


def arrays(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def test_sizes_come_back_by_letter():
    given = arrays(logits=(2, 3, 5), labels=(2, 3))
    assert check_shapes(given, logits="B T V", labels="B T") == {"B": 2, "T": 3, "V": 5}


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((), ""), ((4,), "..."), ((), "..."), ((2, 3, 4), "... D"), ((4,), "... D"), ((3, 3), "N N")],
)
def test_shapes_that_fit(shape, spec):
    check_shapes(arrays(x=shape), x=spec)


@pytest.mark.row("C-041")
@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((2, 3), "B"),
        ((2,), "B T"),
        ((), "B"),
        ((2,), ""),
        ((2, 3), "N N"),
        ((), "... D"),
        ((4,), "3"),
    ],
)
def test_shapes_that_do_not_fit_name_the_argument(shape, spec):
    with pytest.raises(InputError) as caught:
        check_shapes(arrays(image=shape), image=spec)
    assert str(caught.value).startswith(f"image has shape {shape}, but [")


@pytest.mark.row("C-041")
def test_the_message_shows_what_disagrees():
    given = arrays(logits=(4, 10), labels=(4, 1))
    with pytest.raises(InputError) as caught:
        check_shapes(given, logits="B V", labels="B")
    assert str(caught.value) == (
        "labels has shape (4, 1), but [B=4] is expected; given: logits (4, 10), labels (4, 1)."
    )


def test_an_absent_argument_is_left_out():
    given = arrays(values=(4,)) | {"mask": None}
    assert check_shapes(given, values="B", mask="B") == {"B": 4}


def test_checks_run_while_tracing():
    @jax.jit
    def fn(x, y):
        check_shapes({"x": x, "y": y}, x=letters(x.ndim), y=letters(x.ndim))
        return x + y

    with pytest.raises(InputError, match="y has shape"):
        fn(jnp.ones((2, 3)), jnp.ones((2, 1)))
