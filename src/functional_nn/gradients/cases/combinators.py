"""Cases of layers made of layers."""

import jax
import jax.numpy as jnp
from jax import lax

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase, masked

twice_used = fnn.chain(fnn.dense(3, bias=False), fnn.batch_norm(), fnn.tanh, fnn.dropout(0.3))


def gated(net, x):
    return net.value(x) * jax.nn.sigmoid(net.gate(x)) + net.gate(2 * x)


def sampled(net, x, *, train, key):
    """A variational autoencoder."""
    mean, log_variance = jnp.split(net.encoder(x), 2, axis=-1)
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape).astype(mean.dtype) if train else mean
    return net.decoder(z), mean, log_variance


def distance(net, x):
    left, right = (net.encoder(part) for part in x)
    return net.head(jnp.concatenate([(left - right) ** 2, left * right], axis=-1))


def functions(net, x):
    positive = x * x + 1
    powers = jnp.sqrt(positive) / positive + lax.rsqrt(positive) - x**3 + positive**1.5
    logarithms = jnp.log(positive) + jnp.log1p(x * x) + jnp.expm1(x) + jnp.exp2(x)
    waves = jnp.sin(x) * jnp.cos(x) + jnp.arctan2(x, positive) + lax.erf(x) - lax.erfc(x)
    return powers + logarithms + waves + jnp.abs(x) + jnp.tanh(-x)


def shapes(net, x):
    parts = jnp.split(x, [2, 3], axis=1)
    joined = jnp.concatenate([parts[2][:, 1:], jnp.pad(parts[1], ((0, 0), (1, 0), (0, 0))), parts[0] * 2], axis=1)
    turned = jnp.transpose(joined[:, ::-1], (0, 2, 1)).reshape(x.shape[0], -1)
    both = jnp.stack([turned, x.reshape(turned.shape)], axis=1)
    return jnp.where(both > 0, both, 0.1 * both)


def products(net, x):
    weight = net.weights(x).reshape(-1, 3, 2)
    return jnp.einsum("bi,bij->bj", x, weight) + jnp.einsum("bij,bkj->bik", weight, weight)[:, 0, :2]


def reductions(net, x):
    bound = jnp.asarray(0.7, x.dtype)
    centered = x - jnp.mean(x, axis=1, keepdims=True)
    weights = jax.nn.softmax(x * centered, axis=1)
    extremes = jnp.max(x, axis=1) * jnp.min(x, axis=1) + jnp.sum(jnp.maximum(x, x[:, :1]), axis=1)  # a tie in each sum
    return jnp.sum(weights * jnp.cumsum(x, axis=1), axis=1) + extremes + lax.clamp(-bound, x[:, 0], bound)


def messages(net, x):
    """A graph network: every edge sends a message from its source, and every node adds up the messages it gets."""
    sources, targets = jnp.array([0, 0, 1, 3, 4]), jnp.array([1, 2, 2, 2, 0])
    sent = net.message(x[:, sources])
    return net.update(x.at[:, targets].add(sent))


branches = fnn.dense(3), fnn.chain(fnn.dense(3), fnn.tanh)

LAYERS = [
    LayerCase("parallel_sum", fnn.parallel(*branches), (5,)),
    LayerCase("parallel_product", fnn.parallel(*branches, fnn.dense(3), combine="product"), (5,)),
    LayerCase("parallel_concatenate", fnn.parallel(fnn.dense(3), fnn.dropout(0.3), combine="concatenate"), (5,), True),
    LayerCase("parallel_over_masked", fnn.parallel(*branches), (11, 5), make_x=masked((11, 5))),
    LayerCase("residual", fnn.residual(fnn.chain(fnn.dense(5), fnn.tanh, fnn.batch_norm())), (5,)),
    LayerCase("residual_of_named", fnn.residual(fnn.dense(5), fnn.tanh, last=fnn.dense(5)), (5,)),
    LayerCase("residual_with_shortcut", fnn.residual(fnn.dense(3), shortcut=fnn.dense(3, bias=False)), (5,)),
    LayerCase("residual_over_masked", fnn.residual(fnn.dense(5)), (11, 5), make_x=masked((11, 5))),
    LayerCase("bidirectional", fnn.bidirectional(fnn.dense(3), fnn.dense(2)), (11, 5)),
    LayerCase("reverse_time", fnn.reverse_time(fnn.dense(3)), (11, 5)),
    LayerCase("repeat", fnn.repeat(fnn.residual(fnn.chain(fnn.dense(5), fnn.tanh, fnn.dropout(0.3))), 3), (5,), True),
    LayerCase("repeat_with_state", fnn.repeat(fnn.chain(fnn.dense(5, bias=False), fnn.batch_norm()), 2), (5,)),
    LayerCase("repeat_over_masked", fnn.repeat(fnn.residual(fnn.dense(5)), 2), (11, 5), make_x=masked((11, 5))),
    LayerCase("remat", fnn.remat(fnn.chain(fnn.dense(3), fnn.tanh, fnn.dropout(0.3))), (5,), True),
    LayerCase("compose", fnn.compose({"gate": fnn.dense(3), "value": fnn.dense(3)}, gated), (5,)),
    LayerCase("compose_sampling", fnn.compose({"encoder": fnn.dense(4), "decoder": fnn.dense(3)}, sampled), (5,), True),
    LayerCase(
        "compose_shared", fnn.compose({"encoder": twice_used, "head": fnn.dense(2)}, distance), ((5,), (5,)), True
    ),
    LayerCase("compose_functions", fnn.compose({}, functions), (5, 3)),
    LayerCase("compose_shapes", fnn.compose({}, shapes), (5, 3)),
    LayerCase("compose_products", fnn.compose({"weights": fnn.dense(6)}, products), (3,)),
    LayerCase("compose_indices", fnn.compose({"message": fnn.dense(3), "update": fnn.dense(2)}, messages), (5, 3)),
    LayerCase("compose_reductions", fnn.compose({}, reductions), (5, 3)),
    LayerCase("shared", fnn.shared(fnn.chain(fnn.dense(5), fnn.tanh, fnn.dense(5)), {"dense_1": "dense_0"}), (5,)),
    LayerCase(
        "frozen", fnn.frozen(fnn.models.mlp(3, hidden=(11, 7), batch_norm=True), ["dense_0/*", "*scale"]), (5, 2)
    ),
    LayerCase(
        "with_hand_vjp",
        fnn.with_hand_vjp(fnn.chain(fnn.dense(3), fnn.tanh, fnn.dropout(0.3))),
        (5,),
        True,
        no_jvp="a function with a backward pass of its own has no forward mode in JAX",
    ),
]
