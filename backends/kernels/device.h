// What the kernels share.  The compiler is given REAL, float or double, the type of the network.
//
// Arrays lie by rows, with nothing between the elements, and are called by their axes: z_KNH has
// members, samples and units.  A single network is one member.  Biases and their gradients are parts
// of a flat vector, so that from member to member is a distance of their own.  No header of CUDA's is
// needed, so that the compiler library alone compiles them.
#pragma once

typedef REAL real;
typedef long long index_t;
typedef unsigned int word_t;  // 32 bits

#define KERNEL extern "C" __global__ void
#define INLINE __device__ __forceinline__

// A hyper-parameter in float64: one for all members (step 0), one for each (step 1), or left out.
struct Setting {
    const double* at;
    index_t step;
    INLINE double of(index_t k) const { return at ? at[k * step] : 0.0; }
};

INLINE index_t first_element() { return (index_t)blockIdx.x * blockDim.x + threadIdx.x; }
INLINE index_t all_threads() { return (index_t)gridDim.x * blockDim.x; }
