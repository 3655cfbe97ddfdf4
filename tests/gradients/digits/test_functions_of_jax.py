"""The functions of jax.nn, jax.numpy.linalg, jax.scipy.special and optax.losses: the arbiter can evaluate them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import nn
from jax.numpy import linalg
from jax.scipy import special

from functional_nn.gradients.digits.interpreter import Program
from functional_nn.gradients.digits.numbers import Arithmetic

losses = optax.losses
pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.slow]
RANDOM = np.random.default_rng(0)
X, POSITIVE, SHARE = np.array([0.3, -1.2, 2.5]), np.array([0.31, 1.2, 2.57]), np.array([0.31, 0.62, 0.17])
SQUARE, TALL = RANDOM.normal(size=(3, 3)), RANDOM.normal(size=(4, 3))
SYMMETRIC = SQUARE @ SQUARE.T + np.eye(3)
LOGITS, LABELS = RANDOM.normal(size=(2, 3)), np.array([0, 2])
TARGETS = np.array([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
ONE_HOT = np.eye(3)[LABELS]

ACTIVATIONS = (
    *("relu", "relu6", "sigmoid", "softplus", "silu", "log_sigmoid", "soft_sign", "tanh", "elu", "selu", "celu"),
    *("gelu", "leaky_relu", "hard_tanh", "hard_sigmoid", "hard_silu", "sparse_plus", "sparse_sigmoid", "squareplus"),
    *("mish", "log_softmax", "softmax", "standardize", "identity", "logsumexp"),
)
OF_A_SQUARE = ("inv", "det", "matrix_norm", "cond", "tensorinv", "matrix_transpose", "diagonal", "trace", "norm")
OF_POSITIVE = (
    *("digamma", "entr", "erf", "erfc", "exp1", "expi", "expit", "factorial", "gamma", "gammaln", "i0", "i0e", "i1"),
    *("i1e", "log_ndtr", "ndtr", "sici", "spence", "fresnel"),
)
CASES = {
    **{f"nn.{name}": (getattr(nn, name), X) for name in ACTIVATIONS},
    "nn.glu": (nn.glu, np.append(X, 0.7)),
    "nn.exact gelu": (lambda x: nn.gelu(x, approximate=False), X),
    **{f"linalg.{name}": (getattr(linalg, name), SQUARE) for name in OF_A_SQUARE if name != "tensorinv"},
    "linalg.tensorinv": (lambda a: linalg.tensorinv(a, ind=1), SQUARE),
    "linalg.cholesky": (linalg.cholesky, SYMMETRIC),
    "linalg.slogdet": (lambda a: linalg.slogdet(a)[1], SQUARE),
    "linalg.pinv": (linalg.pinv, TALL),
    "linalg.qr": (linalg.qr, TALL),
    "linalg.eigh": (linalg.eigh, SYMMETRIC),
    "linalg.eigvalsh": (linalg.eigvalsh, SYMMETRIC),
    "linalg.svd": (linalg.svd, SQUARE),
    "linalg.svdvals": (linalg.svdvals, TALL),
    "linalg.matrix_power": (lambda a: linalg.matrix_power(a, 3), SQUARE),
    "linalg.multi_dot": (lambda a, b: linalg.multi_dot([a, b, a]), SQUARE, SYMMETRIC),
    "linalg.solve": (linalg.solve, SQUARE, X),
    "linalg.lstsq": (lambda a, b: linalg.lstsq(a, b)[0], TALL, np.append(X, 0.7)),
    "linalg.tensorsolve": (linalg.tensorsolve, SQUARE, X),
    **{f"linalg.{name}": (getattr(linalg, name), X, POSITIVE) for name in ("outer", "cross", "vecdot")},
    "linalg.vector_norm": (linalg.vector_norm, X),
    **{f"special.{name}": (getattr(special, name), POSITIVE) for name in OF_POSITIVE},
    **{f"special.{name}": (getattr(special, name), SHARE) for name in ("erfinv", "logit")},
    **{f"special.{name}": (getattr(special, name), POSITIVE, SHARE) for name in ("betaln", "beta", "kl_div")},
    **{f"special.{name}": (getattr(special, name), POSITIVE, SHARE) for name in ("rel_entr", "poch", "xlogy")},
    **{f"special.{name}": (getattr(special, name), POSITIVE, SHARE) for name in ("gammainc", "gammaincc", "xlog1py")},
    "special.betainc": (lambda x: special.betainc(0.7, 1.3, x), SHARE),
    "special.zeta": (special.zeta, POSITIVE + 1, POSITIVE),
    "special.polygamma": (lambda x: special.polygamma(2, x), POSITIVE),
    "special.expn": (lambda x: special.expn(2, x), POSITIVE),
    "special.multigammaln": (lambda x: special.multigammaln(x, 2), POSITIVE + 3),
    "special.hyp1f1": (lambda x: special.hyp1f1(0.4, 1.3, x), SHARE),
    "special.hyp2f1": (lambda x: special.hyp2f1(0.4, 1.3, 2.1, x), SHARE),
    **{f"losses.{name}": (getattr(losses, name), X, POSITIVE) for name in ("l2_loss", "huber_loss", "log_cosh")},
    **{f"losses.{name}": (getattr(losses, name), X, POSITIVE) for name in ("squared_error", "cosine_similarity")},
    "losses.sigmoid_binary_cross_entropy": (losses.sigmoid_binary_cross_entropy, X, SHARE),
    "losses.sigmoid_focal_loss": (lambda x: losses.sigmoid_focal_loss(x, np.array([1.0, 0.0, 1.0])), X),
    "losses.softmax_cross_entropy": (losses.softmax_cross_entropy, LOGITS, TARGETS),
    "losses.kl_divergence": (losses.kl_divergence, LOGITS, TARGETS),
    "losses.poly_loss_cross_entropy": (lambda x: losses.poly_loss_cross_entropy(x, ONE_HOT), LOGITS),
    "losses.multiclass_sparsemax_loss": (lambda x: losses.multiclass_sparsemax_loss(x, LABELS), LOGITS),
    "losses.ranking_softmax_loss": (lambda x: losses.ranking_softmax_loss(x, POSITIVE), X),
    "losses.ntxent": (lambda x: losses.ntxent(x, np.array([0, 0, 1, 1])), TALL),
    "losses.ctc_loss": (
        lambda x: losses.ctc_loss(x, np.zeros((1, 4)), np.array([[1, 2]]), np.zeros((1, 2))),
        TALL[None],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_jax(name):
    function, *arguments = CASES[name]

    def outputs(leaves):
        return [jnp.real(y) for y in jax.tree.leaves(function(*leaves))]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = np.concatenate([np.ravel(y) for y in outputs([jnp.asarray(x) for x in arguments])])
        program = Program(outputs, arguments)
        arithmetic = Arithmetic(40)
        with np.errstate(all="ignore"), arithmetic.precision():
            found = program(arithmetic, [arithmetic.numbers(x)[..., None] for x in arguments])[:, 0]
    np.testing.assert_allclose(found.astype(float), expected, rtol=1e-11, atol=1e-13 * np.max(np.abs(expected)))
