// Bias, ReLU and their gradients.
#include "device.h"

#define LANES 16  // threads that share the rows of a column
#define WIDTH 32  // columns of a block

// z += b.
KERNEL add_bias(real* z_KNH, const real* b_KH, index_t b_step, index_t N, index_t H, index_t size)
{
    for (index_t i = first_element(); i < size; i += all_threads())
        z_KNH[i] += b_KH[i / (N * H) * b_step + i % H];
}

// z += b and y = max(z, 0); NaN stays NaN.
KERNEL add_bias_relu(
    real* z_KNH, const real* b_KH, index_t b_step, real* y_KNH, index_t N, index_t H, index_t size)
{
    for (index_t i = first_element(); i < size; i += all_threads()) {
        real z = z_KNH[i] + b_KH[i / (N * H) * b_step + i % H];
        z_KNH[i] = z;
        y_KNH[i] = z <= 0 ? (real)0 : z;
    }
}

// The sum of `mine` over the lanes of each column, in lane 0.
INLINE real sum_of_lanes(real mine)
{
    __shared__ real lanes[LANES][WIDTH];
    lanes[threadIdx.y][threadIdx.x] = mine;
    __syncthreads();
    real sum = 0;
    if (threadIdx.y == 0)
        for (int lane = 0; lane < LANES; ++lane) sum += lanes[lane][threadIdx.x];
    return sum;
}

// dz = dy where y > 0, else 0 times it, and the sum of dz over the rows of each chunk.
// Grid (columns, chunks, members), block (WIDTH, LANES).
KERNEL relu_gradient(
    const real* dy_KNH, const real* y_KNH, real* dz_KNH, real* sum_KCH, index_t sum_step,
    index_t N, index_t H, index_t rows)
{
    index_t k = blockIdx.z, h = (index_t)blockIdx.x * WIDTH + threadIdx.x;
    index_t first = blockIdx.y * rows, last = first + rows < N ? first + rows : N;
    real sum = 0;
    if (h < H)
        for (index_t n = first + threadIdx.y; n < last; n += LANES) {
            index_t i = (k * N + n) * H + h;
            real dz = dy_KNH[i] * (y_KNH[i] > 0 ? (real)1 : (real)0);
            dz_KNH[i] = dz;
            sum += dz;
        }
    sum = sum_of_lanes(sum);
    if (threadIdx.y == 0 && h < H) sum_KCH[k * sum_step + blockIdx.y * H + h] = sum;
}

// The sum of dz over the rows of each chunk.  Grid and block as above.
KERNEL sum_rows(
    const real* dz_KNH, real* sum_KCH, index_t sum_step, index_t N, index_t H, index_t rows)
{
    index_t k = blockIdx.z, h = (index_t)blockIdx.x * WIDTH + threadIdx.x;
    index_t first = blockIdx.y * rows, last = first + rows < N ? first + rows : N;
    real sum = 0;
    if (h < H)
        for (index_t n = first + threadIdx.y; n < last; n += LANES) sum += dz_KNH[(k * N + n) * H + h];
    sum = sum_of_lanes(sum);
    if (threadIdx.y == 0 && h < H) sum_KCH[k * sum_step + blockIdx.y * H + h] = sum;
}
