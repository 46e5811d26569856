// The comparison of a reconstruction with its target: the loss and its gradients in one pass over
// the decoder's product, which lies in cache; the gradient takes its place.
#include "ops/reconstruction/reconstruction.h"

#include <algorithm>

#include "shared/activation.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {
namespace {

// Copies of a chunk this long stay in the first-level cache.
constexpr int64_t kChunk = 1024;

// Elements that lie together: part of a row, or some rows.
struct Chunk {
    float* output;  // z, and then dz
    const float* target;
    float* grad_target;  // or null
    int64_t count;
};

// (r - t)^2 for r = act(z).
void compare_squared(const CompareArguments& a, const Chunk& chunk, Sum& loss) {
    const bool from_preactivation = reads_preactivation(a.output_activation);
    alignas(64) float reconstruction[kChunk], difference[kChunk];
    activate(a.output_activation, chunk.output, reconstruction, chunk.count);
    for (int64_t i = 0; i < chunk.count; ++i) difference[i] = reconstruction[i] - chunk.target[i];
    loss.add(chunk.count, [&](int64_t i) {
        const double error = difference[i];
        return error * error;
    });
    if (!a.gradient_needed && !chunk.grad_target) return;
    const float slope = 2 * a.scale;
    for (int64_t i = 0; i < chunk.count; ++i) difference[i] *= slope;
    if (chunk.grad_target)
        for (int64_t i = 0; i < chunk.count; ++i) chunk.grad_target[i] = -difference[i];
    if (a.gradient_needed)
        activation_backward(a.output_activation, difference,
                            from_preactivation ? chunk.output : reconstruction, chunk.output,
                            chunk.count);
}

// -t ln r - (1 - t) ln(1 - r) for r = sigmoid(z), from z and summed as torch does it.
void compare_logits(const CompareArguments& a, const Chunk& chunk, Sum& loss) {
    alignas(64) float terms[kChunk], probabilities[kChunk];
#pragma GCC ivdep
    for (int64_t i = 0; i < chunk.count; ++i) {
        const float z = chunk.output[i];
        const float decay = exp_nonpositive(-std::fabs(z));
        terms[i] = ((1.f - chunk.target[i]) * z - (z < 0.f ? z : 0.f)) + log1p_unit(decay);
        probabilities[i] = (z < 0.f ? decay : 1.f) / (1.f + decay);
    }
    loss.add(chunk.count, [&](int64_t i) { return terms[i]; });
    if (chunk.grad_target)
        for (int64_t i = 0; i < chunk.count; ++i) chunk.grad_target[i] = -a.scale * chunk.output[i];
    if (a.gradient_needed)
        for (int64_t i = 0; i < chunk.count; ++i)
            chunk.output[i] = a.scale * (probabilities[i] - chunk.target[i]);
}

void compare_chunk(const CompareArguments& a, const Chunk& chunk, Sum& loss) {
    if (a.loss == Loss::squared_error)
        compare_squared(a, chunk, loss);
    else
        compare_logits(a, chunk, loss);
}

// As many short rows at once as a chunk holds: a row by itself ends in elements that fill no
// vector.
void compare_rows(const CompareArguments& a, int64_t first, int64_t last, double* sums, Sum& loss) {
    const bool is_dense = a.target_row_stride == a.columns;
    const int64_t rows_at_once = is_dense ? std::max<int64_t>(1, kChunk / a.columns) : 1;
    for (int64_t row = first; row < last; row += rows_at_once) {
        const int64_t count = std::min(rows_at_once, last - row) * a.columns;
        for (int64_t begin = 0; begin < count; begin += kChunk) {
            const int64_t offset = row * a.columns + begin;
            compare_chunk(
                a,
                {a.output + offset, a.target + row * a.target_row_stride + begin,
                 a.grad_target ? a.grad_target + offset : nullptr, std::min(kChunk, count - begin)},
                loss);
        }
        if (!sums) continue;
        for (int64_t i = 0; i < count; i += a.columns) {
            const float* gradient = a.output + row * a.columns + i;
            for (int64_t column = 0; column < a.columns; ++column) sums[column] += gradient[column];
        }
    }
}

}  // namespace

double compare(const CompareArguments& a) {
    const int64_t blocks = row_blocks(a.rows);
    const int threads = threads_for(a.rows * a.columns, a.threads);
    parallel_for(threads, blocks, [&](int64_t block) {
        double* sums = a.grad_bias ? a.partial_sums + block * a.columns : nullptr;
        if (sums) std::fill_n(sums, a.columns, 0.0);
        Sum loss;
        const int64_t last = std::min((block + 1) * kRowsPerPartialSum, a.rows);
        compare_rows(a, block * kRowsPerPartialSum, last, sums, loss);
        a.losses[block] = loss.total();
    });
    if (a.grad_bias) add_partial_sums(a.partial_sums, blocks, a.columns, a.grad_bias);
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += a.losses[block];
    return total;
}

}  // namespace aefast::AEFAST_ISA
