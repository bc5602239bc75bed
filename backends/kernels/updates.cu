// The update rules over the flat parameters (K, P); the formulas are in updates.py.
//
// What depends on hyper-parameters alone is computed in double by the first thread of each block, and
// rounded.  Grid (parameters, members).
#include "device.h"

INLINE index_t end_of_member(index_t P) { return (blockIdx.y + 1) * P; }
INLINE index_t begin_of_thread(index_t P) { return blockIdx.y * P + first_element(); }

// v = momentum v + g, w -= lr v; without velocity (null) w -= lr g.
KERNEL sgd(
    real* w_KP, const real* g_KP, real* v_KP, Setting lr, Setting momentum, Setting weight_decay,
    index_t nesterov, index_t P)
{
    __shared__ real rate, mu, decay;
    index_t k = blockIdx.y;
    if (threadIdx.x == 0) {
        rate = (real)lr.of(k);
        mu = (real)momentum.of(k);
        decay = (real)weight_decay.of(k);
    }
    __syncthreads();
    for (index_t i = begin_of_thread(P); i < end_of_member(P); i += all_threads()) {
        real g = decay != 0 ? g_KP[i] + decay * w_KP[i] : g_KP[i];
        if (v_KP) {
            real v = mu * v_KP[i] + g;
            v_KP[i] = v;
            g = nesterov ? g + mu * v : v;
        }
        w_KP[i] -= rate * g;
    }
}

// s = alpha s + (1 - alpha) g^2; centred by the mean m and with velocity v, unless they are null.
KERNEL rmsprop(
    real* w_KP, const real* g_KP, real* s_KP, real* m_KP, real* v_KP, Setting lr, Setting alpha,
    Setting eps, Setting momentum, Setting weight_decay, index_t P)
{
    __shared__ real rate, a, c, small, mu, decay;
    index_t k = blockIdx.y;
    if (threadIdx.x == 0) {
        rate = (real)lr.of(k);
        a = (real)alpha.of(k);
        c = (real)(1 - alpha.of(k));
        small = (real)eps.of(k);
        mu = (real)momentum.of(k);
        decay = (real)weight_decay.of(k);
    }
    __syncthreads();
    for (index_t i = begin_of_thread(P); i < end_of_member(P); i += all_threads()) {
        real g = decay != 0 ? g_KP[i] + decay * w_KP[i] : g_KP[i];
        real s = a * s_KP[i] + c * g * g, variance = s;
        s_KP[i] = s;
        if (m_KP) {
            real m = m_KP[i] + c * (g - m_KP[i]);
            m_KP[i] = m;
            variance = s - m * m;
            if (variance < 0) variance = 0;
        }
        real u = g / (sqrt(variance) + small);
        if (v_KP) v_KP[i] = u = mu * v_KP[i] + u;
        w_KP[i] -= rate * u;
    }
}

// s = s + g^2, w -= lr/(1 + step lr_decay) g / (sqrt(s) + eps).
KERNEL adagrad(
    real* w_KP, const real* g_KP, real* s_KP, Setting lr, Setting lr_decay, Setting eps,
    const double* step, Setting weight_decay, index_t P)
{
    __shared__ real rate, small, decay;
    index_t k = blockIdx.y;
    if (threadIdx.x == 0) {
        rate = (real)(lr.of(k) / (1 + *step * lr_decay.of(k)));
        small = (real)eps.of(k);
        decay = (real)weight_decay.of(k);
    }
    __syncthreads();
    for (index_t i = begin_of_thread(P); i < end_of_member(P); i += all_threads()) {
        real g = decay != 0 ? g_KP[i] + decay * w_KP[i] : g_KP[i];
        real s = s_KP[i] + g * g;
        s_KP[i] = s;
        w_KP[i] -= rate * g / (sqrt(s) + small);
    }
}

// m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2,
// w -= lr/(1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps).
KERNEL adam(
    real* w_KP, const real* g_KP, real* m_KP, real* v_KP, Setting lr, Setting beta1, Setting beta2,
    Setting eps, const double* step, Setting weight_decay, index_t decoupled, index_t P)
{
    __shared__ real rate, root, b1, c1, b2, c2, small, decay, kept;
    index_t k = blockIdx.y;
    if (threadIdx.x == 0) {
        double t = *step + 1;
        rate = (real)(lr.of(k) / (1 - pow(beta1.of(k), t)));
        root = (real)sqrt(1 - pow(beta2.of(k), t));
        b1 = (real)beta1.of(k);
        c1 = (real)(1 - beta1.of(k));
        b2 = (real)beta2.of(k);
        c2 = (real)(1 - beta2.of(k));
        small = (real)eps.of(k);
        decay = decoupled ? (real)0 : (real)weight_decay.of(k);
        kept = decoupled ? (real)(1 - lr.of(k) * weight_decay.of(k)) : (real)1;
    }
    __syncthreads();
    for (index_t i = begin_of_thread(P); i < end_of_member(P); i += all_threads()) {
        real w = kept * w_KP[i], g = decay != 0 ? g_KP[i] + decay * w_KP[i] : g_KP[i];
        real m = b1 * m_KP[i] + c1 * g, v = b2 * v_KP[i] + c2 * g * g;
        m_KP[i] = m;
        v_KP[i] = v;
        w_KP[i] = w - rate * m / (sqrt(v) / root + small);
    }
}

// Moments as Adam's; w -= (rate_g g + rate_m m) / (sqrt(v / (1 - beta2^t)) + eps).
KERNEL nadam(
    real* w_KP, const real* g_KP, real* m_KP, real* v_KP, Setting rate_g, Setting rate_m,
    Setting beta1, Setting beta2, Setting eps, const double* step, Setting weight_decay, index_t P)
{
    __shared__ real of_g, of_m, root, b1, c1, b2, c2, small, decay;
    index_t k = blockIdx.y;
    if (threadIdx.x == 0) {
        of_g = (real)rate_g.of(k);
        of_m = (real)rate_m.of(k);
        root = (real)sqrt(1 - pow(beta2.of(k), *step + 1));
        b1 = (real)beta1.of(k);
        c1 = (real)(1 - beta1.of(k));
        b2 = (real)beta2.of(k);
        c2 = (real)(1 - beta2.of(k));
        small = (real)eps.of(k);
        decay = (real)weight_decay.of(k);
    }
    __syncthreads();
    for (index_t i = begin_of_thread(P); i < end_of_member(P); i += all_threads()) {
        real g = decay != 0 ? g_KP[i] + decay * w_KP[i] : g_KP[i];
        real m = b1 * m_KP[i] + c1 * g, v = b2 * v_KP[i] + c2 * g * g;
        m_KP[i] = m;
        v_KP[i] = v;
        w_KP[i] -= (of_g * g + of_m * m) / (sqrt(v) / root + small);
    }
}

// w = w (1 - lr weight_decay) - lr sign(beta1 m + (1 - beta1) g), m = beta2 m + (1 - beta2) g.
KERNEL lion(
    real* w_KP, const real* g_KP, real* m_KP, Setting lr, Setting beta1, Setting beta2,
    Setting weight_decay, index_t P)
{
    __shared__ real rate, b1, c1, b2, c2, kept;
    index_t k = blockIdx.y;
    if (threadIdx.x == 0) {
        rate = (real)lr.of(k);
        b1 = (real)beta1.of(k);
        c1 = (real)(1 - beta1.of(k));
        b2 = (real)beta2.of(k);
        c2 = (real)(1 - beta2.of(k));
        kept = (real)(1 - lr.of(k) * weight_decay.of(k));
    }
    __syncthreads();
    for (index_t i = begin_of_thread(P); i < end_of_member(P); i += all_threads()) {
        real g = g_KP[i], mixed = b1 * m_KP[i] + c1 * g;
        real sign = mixed > 0 ? (real)1 : mixed < 0 ? (real)-1 : mixed;  // of 0 it is 0, of NaN NaN
        w_KP[i] = kept * w_KP[i] - rate * sign;
        m_KP[i] = b2 * m_KP[i] + c2 * g;
    }
}
