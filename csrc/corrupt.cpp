// Noise injection: one pass that reads x, draws, and writes the corrupted copy.
#include <algorithm>

#include "box_muller.h"
#include "kernels.h"
#include "parallel.h"
#include "philox.h"

namespace aefast::AEFAST_ISA {
namespace {

// About 64 KiB of float32 a task: enough to hide a task's start, few enough to share a small
// batch between threads. A multiple of kStretch, so that every task starts at a whole counter.
constexpr int64_t kElementsPerTask = 16384;
static_assert(kElementsPerTask % kStretch == 0);

// Calls body(row, first_column, last_column) over the whole block, in parallel tasks that hold
// either some whole rows or a part of one row.
template <class Body>
void for_each_segment(const CorruptArguments& a, const Body& body) {
    if (a.columns > kElementsPerTask) {
        const int64_t segments = (a.columns + kElementsPerTask - 1) / kElementsPerTask;
        parallel_for(a.threads, a.rows * segments, [&](int64_t task) {
            const int64_t first = task % segments * kElementsPerTask;
            body(task / segments, first, std::min(first + kElementsPerTask, a.columns));
        });
        return;
    }
    const int64_t rows_per_task = kElementsPerTask / a.columns;
    parallel_for(a.threads, (a.rows + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
        const int64_t last = std::min((task + 1) * rows_per_task, a.rows);
        for (int64_t row = task * rows_per_task; row < last; ++row) body(row, 0, a.columns);
    });
}

// Writes function(x, random) over the block; draw(words, randoms) makes kStretch randoms of words.
template <class Element, class Random, class Draw, class Function>
void transform(const CorruptArguments& a, Draw draw, Function function) {
    for_each_segment(a, [&](int64_t row, int64_t first, int64_t last) {
        const auto* __restrict x = static_cast<const Element*>(a.x) + row * a.row_stride;
        auto* __restrict output = static_cast<Element*>(a.output) + row * a.columns;
        const PhiloxRow philox(a.seed, static_cast<uint64_t>(a.row_offset + row), 0);
        alignas(64) uint32_t words[kStretch] = {};
        alignas(64) Random randoms[kStretch];
        for (int64_t column = first; column < last; column += kStretch) {
            const int64_t count = std::min(kStretch, last - column);
            for (int64_t i = 0; i < count; i += kWords) {
                philox.words(static_cast<uint32_t>((column + i) / 4), words + i);
            }
            draw(words, randoms);
            if (count == kStretch) {
                for (int64_t i = 0; i < kStretch; ++i) {
                    output[column + i] = function(x[column + i], randoms[i]);
                }
            } else {
                for (int64_t i = 0; i < count; ++i) {
                    output[column + i] = function(x[column + i], randoms[i]);
                }
            }
        }
    });
}

void draw_uniform(const uint32_t* words, uint32_t* uniforms) {
    for (int i = 0; i < kStretch; ++i) uniforms[i] = words[i] >> 8;
}

template <class Bits>
void mask(const CorruptArguments& a) {
    transform<Bits, uint32_t>(a, draw_uniform, [threshold = a.level_threshold](Bits x, uint32_t u) {
        return u < threshold ? Bits{0} : x;
    });
}

template <class Bits>
void salt_and_pepper(const CorruptArguments& a) {
    const auto low = static_cast<Bits>(a.low_bits);
    const auto high = static_cast<Bits>(a.high_bits);
    transform<Bits, uint32_t>(
        a, draw_uniform,
        [low, high, touched = a.level_threshold, to_low = a.low_threshold](Bits x, uint32_t u) {
            const Bits replacement = u < to_low ? low : high;
            return u < touched ? replacement : x;
        });
}

}  // namespace

void corrupt(Noise noise, const CorruptArguments& a) {
    const bool wide = a.element_size == 4;
    switch (noise) {
        case Noise::masking:
            return wide ? mask<uint32_t>(a) : mask<uint16_t>(a);
        case Noise::salt_and_pepper:
            return wide ? salt_and_pepper<uint32_t>(a) : salt_and_pepper<uint16_t>(a);
        case Noise::gaussian:
            return transform<float, float>(
                a, normals, [level = a.level](float x, float z) { return x + level * z; });
    }
}

}  // namespace aefast::AEFAST_ISA
