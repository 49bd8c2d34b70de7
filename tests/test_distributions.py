"""Wanted distributions against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from steer.distributions import parse_distribution
from steer.errors import InputError

PROBABILITIES = np.linspace(0.01, 0.99, 45)


@pytest.mark.parametrize(
    ("text", "oracle"),
    [
        ("uniform(-0.3, 0.3)", stats.uniform(-0.3, 0.6)),
        ("uniform(-.3,1e-1)", stats.uniform(-0.3, 0.4)),
        ("normal(0.1, 0.05)", stats.norm(0.1, 0.05)),
        ("triangular(-1, 0, 3)", stats.triang(0.25, -1, 4)),
        ("triangular(0, 0, 2)", stats.triang(0, 0, 2)),
        (" 2 * normal( +1 , 2. ) ", stats.norm(1, 2)),
    ],
)
def test_single_ones(text, oracle):
    wanted = parse_distribution(text)
    assert np.allclose(wanted.quantile(PROBABILITIES), oracle.ppf(PROBABILITIES), atol=1e-12)
    x = oracle.ppf(PROBABILITIES)
    assert np.allclose(wanted.cdf(x), PROBABILITIES, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "weights", "parts"),
    [
        (
            "0.5*normal(-0.2, 0.05) + 0.5*normal(0.2, 0.05)",
            (0.5, 0.5),
            (stats.norm(-0.2, 0.05), stats.norm(0.2, 0.05)),
        ),
        ("3*uniform(0,1)+normal(2,0.5)", (0.75, 0.25), (stats.uniform(0, 1), stats.norm(2, 0.5))),
        (
            "uniform(0,1) + uniform(0.5,2) + 2*triangular(-1,0,1)",
            (0.25, 0.25, 0.5),
            (stats.uniform(0, 1), stats.uniform(0.5, 1.5), stats.triang(0.5, -1, 2)),
        ),
        (
            "normal(0, 1e-4) + normal(100, 5)",
            (0.5, 0.5),
            (stats.norm(0, 1e-4), stats.norm(100, 5)),
        ),
    ],
)
def test_mixtures_against_root_finding(text, weights, parts):
    wanted = parse_distribution(text)
    assert wanted.weights == pytest.approx(weights)

    def cdf(x):
        return sum(w * p.cdf(x) for w, p in zip(weights, parts, strict=True))

    for probability in PROBABILITIES[::4] + 1e-4:
        low, high = (f(p.ppf(q) for p in parts) for f, q in ((min, 1e-12), (max, 1 - 1e-12)))
        root = brentq(lambda x, p=probability: cdf(x) - p, low, high, xtol=1e-13)
        assert wanted.quantile(probability) == pytest.approx(root, abs=1e-5, rel=1e-4)
        assert wanted.cdf(root) == pytest.approx(probability, abs=1e-9)


@given(
    st.lists(
        st.tuples(st.floats(0.1, 9), st.floats(-2, 2), st.floats(0.01, 1)), min_size=1, max_size=4
    )
)
def test_quantiles_never_decrease_and_samples_pass_the_ks_test(terms):
    wanted = parse_distribution("+".join(f"{w!r}*normal({m!r}, {s!r})" for w, m, s in terms))
    samples = wanted.quantile((np.arange(2000) + 0.5) / 2000)
    assert (np.diff(samples) >= 0).all()
    assert stats.ks_1samp(samples, wanted.cdf).statistic < 0.003


def test_shapes_are_kept():
    wanted = parse_distribution("uniform(0, 1) + uniform(2, 3)")
    assert wanted.quantile(np.full((2, 3), 0.25)).shape == (2, 3)
    assert wanted.cdf(np.zeros((4,))).shape == (4,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a distribution such as"),
        ("uniform", "expected a distribution such as"),
        ("uniform(0, 1", "expected a distribution such as"),
        ("uniform(0, 1) +", "expected a distribution such as"),
        ("uniform(0, 1) + + uniform(0, 1)", "expected a distribution such as"),
        ("uniform(0, 1) uniform(0, 1)", "expected a distribution such as"),
        ("-1*uniform(0, 1)", "expected finite weights above 0"),
        ("0*uniform(0, 1)", "expected finite weights above 0"),
        ("1e400*uniform(0, 1)", "expected finite weights above 0"),
        ("unifrom(0, 1)", "did you mean uniform"),
        ("uniform(0)", r"expected uniform\(low, high\), got uniform\(0\)"),
        ("uniform(0, 1, 2)", r"expected uniform\(low, high\)"),
        ("uniform(a, b)", r"expected uniform\(low, high\)"),
        ("uniform(, )", r"expected uniform\(low, high\)"),
        ("normal(nan, 1)", r"expected normal\(mean, sd\)"),
        ("uniform(1, 0)", "is no distribution"),
        ("uniform(1, 1)", "is no distribution"),
        ("normal(0, 0)", "is no distribution"),
        ("normal(0, -1)", "is no distribution"),
        ("uniform(0, 1e999)", "is no distribution"),
        ("triangular(0, 5, 1)", "is no distribution"),
        ("triangular(0, 0, 0)", "is no distribution"),
        ("__import__('os')", "expected a distribution such as"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_syntax_is_named(text, said):
    with pytest.raises(InputError, match=said) as caught:
        parse_distribution(text)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@given(st.text(alphabet="uniform(0,1.5)+*-e nal", max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        wanted = parse_distribution(text)
    except InputError:
        return
    assert np.isfinite(wanted.quantile([0.1, 0.5, 0.9])).all()
