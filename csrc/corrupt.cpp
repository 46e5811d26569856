// Noise injection: one pass that reads x, draws, and writes the corrupted copy.
#include <algorithm>
#include <cstring>

#include "box_muller.h"
#include "kernels.h"
#include "parallel.h"
#include "philox.h"

namespace aefast::AEFAST_ISA {
namespace {

// Elements a task: few enough to share a small batch between threads, enough that each thread reads
// and writes long stretches of memory. Between tasks of 64 KiB, which two threads took in turn, an
// out-of-cache block took 22 ms, between tasks of 1 MiB 12.
int64_t elements_per_task(const CorruptArguments& a) {
    const int64_t share = a.rows * a.columns / (8 * a.threads);
    return std::clamp<int64_t>(share, 1 << 14, 1 << 18) / kStretch * kStretch;
}

// Calls body(row, first_column, last_column) over the whole block, in parallel tasks that hold
// either some whole rows or a part of one row, which starts at a multiple of kStretch.
template <class Body>
void for_each_segment(const CorruptArguments& a, const Body& body) {
    const int64_t size = elements_per_task(a);
    if (a.columns > size) {
        const int64_t segments = (a.columns + size - 1) / size;
        parallel_for(a.threads, a.rows * segments, [&](int64_t task) {
            const int64_t first = task % segments * size;
            body(task / segments, first, std::min(first + size, a.columns));
        });
        return;
    }
    const int64_t rows_per_task = size / a.columns;
    parallel_for(a.threads, (a.rows + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
        const int64_t last = std::min((task + 1) * rows_per_task, a.rows);
        for (int64_t row = task * rows_per_task; row < last; ++row) body(row, 0, a.columns);
    });
}

// Writes change(x, words) for a whole stretch at a time.
template <class Element, class Change>
void transform(const CorruptArguments& a, Change change) {
    for_each_segment(a, [&](int64_t row, int64_t first, int64_t last) {
        const auto* x = static_cast<const Element*>(a.x) + row * a.row_stride;
        auto* output = static_cast<Element*>(a.output) + row * a.columns;
        const PhiloxRow philox(a.seed, static_cast<uint64_t>(a.row_offset + row), 0);
        alignas(64) uint32_t words[kStretch];
        int64_t column = first;
        for (; column + kStretch <= last; column += kStretch) {
            philox.words(static_cast<uint32_t>(column / 4), words);
            change(x + column, words, output + column);
        }
        if (column == last) return;
        alignas(64) Element rest[kStretch] = {}, changed[kStretch];
        std::copy(x + column, x + last, rest);
        philox.words(static_cast<uint32_t>(column / 4), words);
        change(rest, words, changed);
        std::copy(changed, changed + (last - column), output + column);
    });
}

// A copy to choose from. Chosen from memory, x would be loaded under the mask of what is kept, and
// such a load took two and a half times as long where x is not in the cache.
template <class Bits>
struct Stretch {
    alignas(64) Bits values[kStretch];
    explicit Stretch(const Bits* x) { std::memcpy(values, x, sizeof values); }
};

template <class Bits>
void mask(const CorruptArguments& a) {
    transform<Bits>(a, [threshold = a.level_threshold](const Bits* x, const uint32_t* words,
                                                       Bits* __restrict output) {
        const Stretch<Bits> kept(x);
        for (int64_t i = 0; i < kStretch; ++i) {
            output[i] = (words[i] >> 8) < threshold ? Bits{0} : kept.values[i];
        }
    });
}

template <class Bits>
void salt_and_pepper(const CorruptArguments& a) {
    const auto low = static_cast<Bits>(a.low_bits), high = static_cast<Bits>(a.high_bits);
    transform<Bits>(a, [low, high, to_low = a.low_threshold, touched = a.level_threshold](
                           const Bits* x, const uint32_t* words, Bits* __restrict output) {
        const Stretch<Bits> kept(x);
        for (int64_t i = 0; i < kStretch; ++i) {
            const uint32_t uniform = words[i] >> 8;
            const Bits replacement = uniform < to_low ? low : high;
            output[i] = uniform < touched ? replacement : kept.values[i];
        }
    });
}

void add_gaussian(const CorruptArguments& a) {
    transform<float>(a,
                     [level = a.level](const float* __restrict x, const uint32_t* __restrict words,
                                       float* __restrict output) {
                         alignas(64) float noise[kStretch];
                         normals(words, noise);
                         for (int64_t i = 0; i < kStretch; ++i) output[i] = x[i] + level * noise[i];
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
            return add_gaussian(a);
    }
}

}  // namespace aefast::AEFAST_ISA
