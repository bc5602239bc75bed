"""The update rules as kernels on flat vectors: the formulas, in place.

Parameters, gradients and what a rule remembers are (P,) or (K, P).  Hyper-parameters are () or
(K, 1) in float64, and rounded to the parameters' dtype after what is computed from them alone.
`step` is () float64 and counts the updates made before.
"""

from typing import Any

Array = Any
Namespace = Any


class Updates:
    """The part of a `Backend` that changes parameters."""

    xp: Namespace

    def sgd(
        self,
        params: Array,
        grads: Array,
        velocity: Array | None,
        lr: Array,
        momentum: Array | None = None,
        weight_decay: Array | None = None,
        nesterov: bool = False,
    ) -> None:
        """Gradient descent with momentum (torch.optim.SGD, no dampening).

            g = grad + weight_decay w
            v = momentum v + g
            w = w - lr v                   (Nesterov: w - lr (g + momentum v))

        The velocity is None where there is no momentum.
        """
        g = self._with_penalty(params, grads, weight_decay)
        if velocity is not None:
            momentum = self._as(params, momentum)
            velocity[...] = momentum * velocity + g
            g = g + momentum * velocity if nesterov else velocity
        params[...] = params - self._as(params, lr) * g

    def rmsprop(
        self,
        params: Array,
        grads: Array,
        square: Array,
        mean: Array | None,
        velocity: Array | None,
        lr: Array,
        alpha: Array,
        eps: Array,
        momentum: Array | None = None,
        weight_decay: Array | None = None,
    ) -> None:
        """RMSprop (Tieleman and Hinton 2012; torch.optim.RMSprop).

        g = grad + weight_decay w
        s = alpha s + (1 - alpha) g^2
        m = alpha m + (1 - alpha) g    (if centred; else it is left out)
        u = g / (sqrt(s - m^2) + eps)
        v = momentum v + u             (without momentum v = u)
        w = w - lr v
        """
        xp = self.xp
        g = self._with_penalty(params, grads, weight_decay)
        a, c = self._as(params, alpha), self._as(params, 1 - alpha)
        square[...] = a * square + c * g * g
        variance = square
        if mean is not None:
            mean[...] = mean + c * (g - mean)
            variance = xp.maximum(square - mean * mean, xp.zeros((), dtype=params.dtype))
        u = g / (xp.sqrt(variance) + self._as(params, eps))
        if velocity is not None:
            velocity[...] = self._as(params, momentum) * velocity + u
            u = velocity
        params[...] = params - self._as(params, lr) * u

    def adagrad(
        self,
        params: Array,
        grads: Array,
        total: Array,
        lr: Array,
        lr_decay: Array,
        eps: Array,
        step: Array,
        weight_decay: Array | None = None,
    ) -> None:
        """Adagrad (Duchi, Hazan and Singer 2011; torch.optim.Adagrad).

        g = grad + weight_decay w
        s = s + g^2
        w = w - lr/(1 + step lr_decay) g / (sqrt(s) + eps)
        """
        g = self._with_penalty(params, grads, weight_decay)
        total[...] = total + g * g
        rate = self._as(params, lr / (1 + step * lr_decay))
        params[...] = params - rate * g / (self.xp.sqrt(total) + self._as(params, eps))

    def adam(
        self,
        params: Array,
        grads: Array,
        mean: Array,
        square: Array,
        lr: Array,
        beta1: Array,
        beta2: Array,
        eps: Array,
        step: Array,
        weight_decay: Array | None = None,
        decoupled: bool = False,
    ) -> None:
        """Adam (Kingma and Ba 2015; decoupled: AdamW, Loshchilov and Hutter 2019).

        g = grad + weight_decay w      (decoupled: g = grad, w = w (1 - lr weight_decay))
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        w = w - lr/(1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps),  t = step + 1
        """
        xp, t = self.xp, step + 1
        rate = self._as(params, lr / (1 - beta1**t))
        root = self._as(params, xp.sqrt(1 - beta2**t))
        if decoupled:
            self._shrink(params, lr, weight_decay)
        g = grads if decoupled else self._with_penalty(params, grads, weight_decay)
        self._moments(mean, square, g, beta1, beta2)
        params[...] = params - rate * mean / (xp.sqrt(square) / root + self._as(params, eps))

    def nadam(
        self,
        params: Array,
        grads: Array,
        mean: Array,
        square: Array,
        mu_product: Array,
        lr: Array,
        beta1: Array,
        beta2: Array,
        eps: Array,
        momentum_decay: Array,
        step: Array,
        weight_decay: Array | None = None,
    ) -> None:
        """Adam with Nesterov momentum (Dozat 2016; torch.optim.NAdam).

            g, m and v as for Adam; mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2),  t = step + 1
            M = M mu_t
            w = w - lr ((1 - mu_t)/(1 - M) g + mu_{t+1}/(1 - M mu_{t+1}) m)
                    / (sqrt(v / (1 - beta2^t)) + eps)

        `mu_product` M is (1,) or (K, 1) in float64, at first 1.
        """
        xp = self.xp
        rate_g, rate_m = self._nadam_rates(mu_product, lr, beta1, momentum_decay, step)
        g = self._with_penalty(params, grads, weight_decay)
        self._moments(mean, square, g, beta1, beta2)
        root = self._as(params, xp.sqrt(1 - beta2 ** (step + 1)))
        below = xp.sqrt(square) / root + self._as(params, eps)
        up = self._as(params, rate_g) * g + self._as(params, rate_m) * mean
        params[...] = params - up / below

    def lion(
        self,
        params: Array,
        grads: Array,
        mean: Array,
        lr: Array,
        beta1: Array,
        beta2: Array,
        weight_decay: Array | None = None,
    ) -> None:
        """Lion (Chen and others 2023): steps of one size, in the direction of the sign.

        w = w (1 - lr weight_decay) - lr sign(beta1 m + (1 - beta1) grad)
        m = beta2 m + (1 - beta2) grad
        """
        mixed = self._as(params, beta1) * mean + self._as(params, 1 - beta1) * grads
        self._shrink(params, lr, weight_decay)
        params[...] = params - self._as(params, lr) * self.xp.sign(mixed)
        mean[...] = self._as(params, beta2) * mean + self._as(params, 1 - beta2) * grads

    def _nadam_rates(
        self, mu_product: Array, lr: Array, beta1: Array, momentum_decay: Array, step: Array
    ) -> tuple[Array, Array]:
        """The rates of g and of m, float64 (1,) or (K, 1); M becomes M mu_t."""
        t = step + 1
        mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
        mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
        mu_product[...] = mu_product * mu
        rate_g = lr * (1 - mu) / (1 - mu_product)
        return rate_g, lr * mu_next / (1 - mu_product * mu_next)

    # ---- what the rules have in common ---------------------------------------------------------

    def _as(self, params: Array, value: Array) -> Array:
        """A hyper-parameter in the parameters' dtype."""
        return self.xp.astype(value, params.dtype)

    def _with_penalty(self, params: Array, grads: Array, weight_decay: Array | None) -> Array:
        """The gradient of a loss with weight_decay w^2 / 2 in it."""
        if weight_decay is None:
            return grads
        return grads + self._as(params, weight_decay) * params

    def _shrink(self, params: Array, lr: Array, weight_decay: Array | None) -> None:
        """w = w (1 - lr weight_decay)."""
        if weight_decay is not None:
            params[...] = params * self._as(params, 1 - lr * weight_decay)

    def _moments(self, mean: Array, square: Array, g: Array, beta1: Array, beta2: Array) -> None:
        """m = beta1 m + (1 - beta1) g and v = beta2 v + (1 - beta2) g^2."""
        mean[...] = self._as(g, beta1) * mean + self._as(g, 1 - beta1) * g
        square[...] = self._as(g, beta2) * square + self._as(g, 1 - beta2) * g * g
