// Softmax cross-entropy of integer labels; the formula is in Backend.softmax_cross_entropy.
//
// Weights of classes (C) and of samples, and the smoothing, are null where they are left out; labels
// and sample weights have a distance of 0 from member to member where all members share them.
#include "device.h"

#define WARP 32  // lanes that share a sample
#define ALL 0xffffffffu

INLINE real weight_of_class(const real* c_C, index_t label, index_t C)
{
    if (!c_C) return 1;
    return 0 <= label && label < C ? c_C[label] : (real)0;
}

INLINE real sum_of_warp(real mine)
{
    for (int offset = WARP / 2; offset; offset /= 2) mine += __shfl_xor_sync(ALL, mine, offset);
    return mine;
}

INLINE real max_of_warp(real mine)  // NaN if one of them is
{
    for (int offset = WARP / 2; offset; offset /= 2) {
        real other = __shfl_xor_sync(ALL, mine, offset);
        if (!(other <= mine)) mine = mine == mine ? other : mine;
    }
    return mine;
}

// The sum over the block's warps, in each thread of the first one.
INLINE real sum_of_block(real mine)
{
    __shared__ real warps[WARP];
    real sum = sum_of_warp(mine);
    if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = sum;
    __syncthreads();
    return sum_of_warp(threadIdx.x < blockDim.x / WARP ? warps[threadIdx.x] : (real)0);
}

// total_k = sum_n w_n c_label, or 1 where that is nothing.  A block for each member.
KERNEL total_weights(
    const index_t* label_KN, index_t label_step, const real* c_C, const real* w_KN, index_t w_step,
    real* total_K, index_t N, index_t C)
{
    index_t k = blockIdx.x;
    real sum = 0;
    for (index_t n = threadIdx.x; n < N; n += blockDim.x)
        sum += (w_KN ? w_KN[k * w_step + n] : (real)1)
            * weight_of_class(c_C, label_KN[k * label_step + n], C);
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) total_K[k] = sum > 0 ? sum : (real)1;
}

// What each sample adds to the loss, and the gradient.  Grid (samples, members), a warp for a sample.
// total_K is null where all samples count 1.
KERNEL label_cross_entropy(
    const real* s_KNC, const index_t* label_KN, index_t label_step, const real* smoothing_K,
    index_t smoothing_step, const real* c_C, const real* w_KN, index_t w_step, const real* total_K,
    real* loss_KN, real* ds_KNC, index_t N, index_t C)
{
    index_t k = blockIdx.y, lane = threadIdx.x % WARP;
    index_t n = (index_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (n >= N) return;  // the whole warp
    const real* s = s_KNC + (k * N + n) * C;
    real* ds = ds_KNC + (k * N + n) * C;
    index_t label = label_KN[k * label_step + n];
    real smoothing = smoothing_K ? smoothing_K[k * smoothing_step] : (real)0;
    real spread = smoothing / C, peak = 1 - smoothing;
    real share = (w_KN ? w_KN[k * w_step + n] : (real)1) / (total_K ? total_K[k] : (real)N);

    real top = lane < C ? s[lane] : s[0];
    for (index_t c = lane; c < C; c += WARP)
        if (top == top && !(s[c] <= top)) top = s[c];  // NaN stays
    top = max_of_warp(top);
    real exps = 0, mass = 0, logs = 0;
    for (index_t c = lane; c < C; c += WARP) {
        real q = weight_of_class(c_C, c, C) * (spread + (c == label ? peak : (real)0));
        exps += exp(s[c] - top);
        mass += q;
        logs += q * (s[c] - top);
    }
    exps = sum_of_warp(exps);
    mass = sum_of_warp(mass);
    logs = sum_of_warp(logs);
    for (index_t c = lane; c < C; c += WARP) {
        real q = weight_of_class(c_C, c, C) * (spread + (c == label ? peak : (real)0));
        ds[c] = share * (exp(s[c] - top) / exps * mass - q);
    }
    if (lane == 0) loss_KN[k * N + n] = share * (mass * log(exps) - logs);
}

// loss_k = sum_n of what the samples add.  A block for each member.
KERNEL sum_losses(const real* loss_KN, real* loss_K, index_t N)
{
    index_t k = blockIdx.x;
    real sum = 0;
    for (index_t n = threadIdx.x; n < N; n += blockDim.x) sum += loss_KN[k * N + n];
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) loss_K[k] = sum;
}
