// The element-wise halves of a linear layer with its activation; the products are gemm.cpp's or
// the vendor's.
#include "ops/linear_act/linear_act.h"

#include <algorithm>
#include <type_traits>

#include "shared/activation.h"
#include "shared/element.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {
namespace {

// Elements a task.
constexpr int64_t kElementsPerTask = 32768;

// float32 copies of a chunk this long stay in the first-level cache.
constexpr int64_t kChunk = 1024;

template <class Element>
void activate_as(const ActivateArguments& a) {
    const int64_t tasks = (a.count + kElementsPerTask - 1) / kElementsPerTask;
    parallel_for(a.threads, tasks, [&](int64_t task) {
        auto* values = static_cast<Element*>(a.values);
        const int64_t last = std::min((task + 1) * kElementsPerTask, a.count);
        for (int64_t i = task * kElementsPerTask; i < last; i += kChunk) {
            const int64_t count = std::min(kChunk, last - i);
            if constexpr (std::is_same_v<Element, float>) {
                activate(a.activation, values + i, values + i, count);
            } else {
                alignas(64) float buffer[kChunk];
                load(values + i, buffer, count);
                activate(a.activation, buffer, buffer, count);
                store(buffer, values + i, count);
            }
        }
    });
}

// grad_preactivation of a chunk of one row; its float32 values are added to sums.
template <class Element>
void backward_chunk(const ActivationBackwardArguments& a, int64_t row, int64_t column,
                    int64_t count, double* sums) {
    const int64_t offset = row * a.columns + column;
    const auto* gradient =
        static_cast<const Element*>(a.gradient) + row * a.gradient_row_stride + column;
    const auto* saved = static_cast<const Element*>(a.saved) + offset;
    auto* output = static_cast<Element*>(a.grad_preactivation) + offset;
    alignas(64) float buffers[2][kChunk];
    const float* result;
    if constexpr (std::is_same_v<Element, float>) {
        activation_backward(a.activation, gradient, saved, output, count);
        result = output;
    } else {
        load(gradient, buffers[0], count);
        load(saved, buffers[1], count);
        activation_backward(a.activation, buffers[0], buffers[1], buffers[0], count);
        store(buffers[0], output, count);
        result = buffers[0];
    }
    if (!sums) return;
    for (int64_t i = 0; i < count; ++i) sums[column + i] += result[i];
}

template <class Element>
void activation_backward_as(const ActivationBackwardArguments& a) {
    const int64_t blocks = row_blocks(a.rows);
    const int threads = threads_for(a.rows * a.columns, a.threads);
    parallel_for(threads, blocks, [&](int64_t block) {
        double* sums = a.grad_bias ? a.partial_sums + block * a.columns : nullptr;
        const int64_t first = block * kRowsPerPartialSum;
        const int64_t last = std::min(first + kRowsPerPartialSum, a.rows);
        for (int64_t row = first; row < last; ++row) {
            for (int64_t column = 0; column < a.columns; column += kChunk) {
                if (interrupted_at(column)) return;
                const int64_t count = std::min(kChunk, a.columns - column);
                if (sums && row == first) std::fill_n(sums + column, count, 0.0);
                backward_chunk<Element>(a, row, column, count, sums);
            }
        }
    });
    if (a.grad_bias)
        add_partial_sums(a.partial_sums, blocks, a.columns, static_cast<Element*>(a.grad_bias));
}

}  // namespace

void activate(const ActivateArguments& a) {
    with_element(a.element_type, [&](auto element) { activate_as<decltype(element)>(a); });
}

void activation_backward(const ActivationBackwardArguments& a) {
    with_element(a.element_type,
                 [&](auto element) { activation_backward_as<decltype(element)>(a); });
}

}  // namespace aefast::AEFAST_ISA
