// Threefry-2x32 with 20 rounds, as in threefry.py: a pair of words for each counter (pair, step).
#include "device.h"

INLINE void rotate_four(word_t& x0, word_t& x1, int a, int b, int c, int d)
{
    int rotations[4] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) {
        x0 += x1;
        x1 = (x1 << rotations[i] | x1 >> (32 - rotations[i])) ^ x0;
    }
}

INLINE void threefry(word_t k0, word_t k1, word_t& x0, word_t& x1)
{
    word_t keys[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
    x0 += k0;
    x1 += k1;
    for (word_t group = 0; group < 5; ++group) {
        if (group % 2 == 0) rotate_four(x0, x1, 13, 15, 26, 6);
        else rotate_four(x0, x1, 17, 29, 16, 24);
        x0 += keys[(group + 1) % 3];
        x1 += keys[(group + 2) % 3] + group + 1;
    }
}

// Random words: key (K, 2), words (K, size).  Grid (pairs, members).
KERNEL random_words(const index_t* key_K2, const index_t* step, word_t* word_KS, index_t size)
{
    index_t k = blockIdx.y;
    for (index_t pair = first_element(); 2 * pair < size; pair += all_threads()) {
        word_t x0 = (word_t)pair, x1 = (word_t)*step;
        threefry((word_t)key_K2[2 * k], (word_t)key_K2[2 * k + 1], x0, x1);
        word_KS[k * size + 2 * pair] = x0;
        if (2 * pair + 1 < size) word_KS[k * size + 2 * pair + 1] = x1;
    }
}

// y = m x, with m 0 where the word is below the threshold, scale elsewhere.  Grid (pairs, members).
KERNEL dropout(
    const index_t* key_K2, const index_t* step, const index_t* threshold_K, index_t threshold_step,
    const real* scale_K, index_t scale_step, const real* x_KS, index_t x_step, real* y_KS,
    real* m_KS, index_t size)
{
    index_t k = blockIdx.y;
    index_t threshold = threshold_K[k * threshold_step];
    real scale = scale_K[k * scale_step];
    for (index_t pair = first_element(); 2 * pair < size; pair += all_threads()) {
        word_t words[2] = {(word_t)pair, (word_t)*step};
        threefry((word_t)key_K2[2 * k], (word_t)key_K2[2 * k + 1], words[0], words[1]);
        for (index_t i = 2 * pair; i < 2 * pair + 2 && i < size; ++i) {
            real m = words[i % 2] >= threshold ? scale : (real)0;
            m_KS[k * size + i] = m;
            y_KS[k * size + i] = x_KS[k * x_step + i] * m;
        }
    }
}
