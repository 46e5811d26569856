// Sparse codes over many latents: each row's k largest pre-activations, and the products of such
// codes with a matrix of latents. No array has as many elements as rows times latents.
//
// Rows are divided into blocks and latents into panels. A task multiplies one panel after the other
// into an array that stays in cache. For each row it keeps the candidates for the k largest: values
// above a threshold, which rises as larger ones come.
#include "ops/topk/topk.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

#include "gemm/blocking.h"
#include "ops/topk/code_rows.h"
#include "shared/parallel.h"
#include "shared/scratch.h"

namespace aefast::AEFAST_ISA {
namespace {

// ------------------------------------------------------------------------------------ selection

// The grid is the same for any thread count, and with it every product's last bit.
constexpr int64_t kMostRowsPerBlock = 256, kFewestRowsPerBlock = 16;
constexpr int64_t kCandidatesPerBlock = 1 << 19;  // 4 MiB a thread, while k is below 16 thousand
constexpr int64_t kLatentsPerPanel = 512;
// With fewer latents in a part, rows would begin without a threshold too often.
constexpr int64_t kFewestLatentsPerPart = 4096;
constexpr int64_t kComparedLatents = 32;  // latents that are compared with the threshold at a time

// A latent's value and number in one integer, whose order is descending by value, then ascending by
// number. NaN is the largest value, and -0 equals 0.
struct Candidate {
    uint64_t rank;
};

struct GoesBefore {
    bool operator()(Candidate a, Candidate b) const { return a.rank > b.rank; }
};

inline Candidate candidate(float value, int64_t latent) {
    uint32_t bits;
    value += 0.f;
    std::memcpy(&bits, &value, sizeof bits);
    uint32_t order = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (value != value) order = ~0u;
    return {static_cast<uint64_t>(order) << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(latent))};
}

inline float value_of(Candidate candidate) {
    const uint32_t order = static_cast<uint32_t>(candidate.rank >> 32);
    const uint32_t bits = order >> 31 ? order & 0x7FFFFFFFu : ~order;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline int64_t latent_of(Candidate candidate) {
    return 0xFFFFFFFFu - static_cast<uint32_t>(candidate.rank);
}

// Whether one of kComparedLatents values is above the threshold; NaN is, and all are above a NaN.
inline bool any_above(const float* values, float threshold) {
    int above = 0;
    for (int64_t i = 0; i < kComparedLatents; ++i) above |= !(values[i] <= threshold);
    return above != 0;
}

// A row's candidates: its k largest so far, and later values above the smallest of these. Latents
// come in ascending order of their numbers, so that a later one equal to the threshold loses.
class Selection {
  public:
    static int64_t capacity(int64_t k, int64_t latents) {
        return std::min(2 * k, latents) + 2 * kComparedLatents;
    }

    void begin(Candidate* candidates) {
        candidates_ = candidates;
        count_ = 0;
        threshold_ = __builtin_nanf("");
    }

    void add(const float* values, int64_t first_latent, int64_t count, int64_t k,
             int64_t capacity) {
        for (int64_t i = 0; i < count; i += kComparedLatents) {
            const int64_t compared = std::min(kComparedLatents, count - i);
            if (compared == kComparedLatents && !any_above(values + i, threshold_)) continue;
            for (int64_t j = i; j < i + compared; ++j) {
                candidates_[count_] = candidate(values[j], first_latent + j);
                count_ += !(values[j] <= threshold_);
            }
            if (count_ + kComparedLatents > capacity) tighten(k);
        }
    }

    // The k largest, in their order.
    const Candidate* finish(int64_t k) {
        if (count_ > k) tighten(k);
        std::sort(candidates_, candidates_ + k, GoesBefore());
        return candidates_;
    }

  private:
    void tighten(int64_t k) {
        std::nth_element(candidates_, candidates_ + (k - 1), candidates_ + count_, GoesBefore());
        threshold_ = value_of(candidates_[k - 1]);
        count_ = k;
    }

    Candidate* candidates_;
    int64_t count_;
    float threshold_;
};

int64_t rows_per_block(int64_t k, int64_t latents) {
    return std::clamp(kCandidatesPerBlock / Selection::capacity(k, latents), kFewestRowsPerBlock,
                      kMostRowsPerBlock);
}

thread_local Scratch panel_scratch;

// A block of rows by a part of the latents.
class EncodePart {
  public:
    EncodePart(const TopKEncodeArguments& arguments, Range rows, Range latents)
        : a_(arguments),
          rows_(rows),
          latents_(latents),
          height_(rows.end - rows.begin),
          capacity_(Selection::capacity(arguments.k, latents.end - latents.begin)) {}

    // finish(row, its k candidates) for each row, unless an interrupt comes.
    template <class Finish>
    void run(const Finish& finish) {
        reserve();
        Interruption& interruption = *current_interruption;
        for (int64_t latent = latents_.begin; latent < latents_.end; latent += kLatentsPerPanel) {
            if (interruption.has_come()) return;
            add_panel({latent, smaller(latent + kLatentsPerPanel, latents_.end)});
        }
        for (int64_t row = 0; row < height_; ++row)
            finish(rows_.begin + row, selections_[row].finish(a_.k));
    }

  private:
    void reserve() {
        const int64_t panel_bytes = sizeof(float) * height_ * kLatentsPerPanel;
        const int64_t candidate_bytes = sizeof(Candidate) * height_ * capacity_;
        auto* memory = static_cast<char*>(
            panel_scratch.reserve(panel_bytes + candidate_bytes + sizeof(Selection) * height_));
        panel_ = reinterpret_cast<float*>(memory);
        auto* candidates = reinterpret_cast<Candidate*>(memory + panel_bytes);
        selections_ = reinterpret_cast<Selection*>(memory + panel_bytes + candidate_bytes);
        for (int64_t row = 0; row < height_; ++row)
            selections_[row].begin(candidates + row * capacity_);
    }

    void add_panel(Range latents) {
        const int64_t width = latents.end - latents.begin;
        multiply(latents);
        for (int64_t row = 0; row < height_; ++row)
            selections_[row].add(panel_ + row * width, latents.begin, width, a_.k, capacity_);
    }

    // The product handles no signals: it must not be interrupted inside this task.
    void multiply(Range latents) {
        const SignalsWait wait;
        MatrixView x = a_.x, weight = a_.weight;
        x.data += rows_.begin * x.row_stride;
        x.rows = height_;
        weight.data += latents.begin * weight.row_stride;
        weight.rows = latents.end - latents.begin;
        const float* bias = a_.bias == nullptr ? nullptr : a_.bias + latents.begin;
        a_.multiply({x,
                     weight,
                     {},
                     bias,
                     Activation::identity,
                     panel_,
                     weight.rows,
                     nullptr,
                     false,
                     a_.precision,
                     1});
    }

    const TopKEncodeArguments& a_;
    Range rows_, latents_;
    int64_t height_, capacity_;
    float* panel_;
    Selection* selections_;
};

void write_row(const TopKEncodeArguments& a, int64_t row, const Candidate* candidates) {
    for (int64_t i = 0; i < a.k; ++i) {
        a.values[row * a.k + i] = value_of(candidates[i]);
        a.indices[row * a.k + i] = latent_of(candidates[i]);
    }
}

// If there are few rows, threads divide the latents.
int64_t parts_of_latents(const TopKEncodeArguments& a, int threads, int64_t row_blocks) {
    const int64_t parts = threads == 1 ? 1 : ceil_divide(2 * threads, row_blocks);
    const int64_t most = a.weight.rows / larger(kFewestLatentsPerPart, 2 * a.k);
    return larger(1, smaller(parts, most));
}

// ---------------------------------------------------------------------- products of sparse codes

// The code's elements, latent by latent and in each by row: where each latent's begin, [latents
// + 1], and of each the row and the value, [rows * k].
struct ByLatent {
    struct Element {
        int64_t row;
        float value;
    };
    std::unique_ptr<int64_t[]> begin;
    std::unique_ptr<Element[]> elements;
};

ByLatent sorted_by_latent(const SparseCode& code, int64_t latents) {
    const int64_t count = code.rows * code.k;
    ByLatent sorted{std::unique_ptr<int64_t[]>(new int64_t[latents + 2]()),
                    std::unique_ptr<ByLatent::Element[]>(new ByLatent::Element[count])};
    // Counts are stored two places further: filling then moves each latent's end to the next one's
    // begin.
    int64_t* next = sorted.begin.get() + 1;
    for (int64_t i = 0; i < count; ++i) ++next[code.indices[i] + 1];
    for (int64_t latent = 0; latent < latents; ++latent) next[latent + 1] += next[latent];
    for (int64_t row = 0, i = 0; row < code.rows; ++row)
        for (int64_t last = i + code.k; i < last; ++i)
            sorted.elements[next[code.indices[i]]++] = {row, code.values[i]};
    return sorted;
}

}  // namespace

void topk_encode(const TopKEncodeArguments& a) {
    const EvenParts rows(a.x.rows, ceil_divide(a.x.rows, rows_per_block(a.k, a.weight.rows)));
    const int threads =
        useful_threads(a.threads, static_cast<double>(a.x.rows) * a.weight.rows * a.x.columns);
    const int64_t parts = parts_of_latents(a, threads, rows.count());
    const EvenParts panels(ceil_divide(a.weight.rows, kLatentsPerPanel), parts);
    const std::unique_ptr<Candidate[]> best_of_parts(
        parts == 1 ? nullptr : new Candidate[a.x.rows * parts * a.k]);
    std::atomic<bool> out_of_memory{false};
    parallel_for(threads, rows.count() * parts, [&](int64_t task) {
        const int64_t part = task % parts;
        const Range latents = {panels.begin(part) * kLatentsPerPanel,
                               smaller(panels.begin(part + 1) * kLatentsPerPanel, a.weight.rows)};
        try {
            EncodePart(a, rows[task / parts], latents)
                .run([&](int64_t row, const Candidate* candidates) {
                    if (parts == 1)
                        write_row(a, row, candidates);
                    else
                        std::copy_n(candidates, a.k,
                                    best_of_parts.get() + (row * parts + part) * a.k);
                });
        } catch (const std::bad_alloc&) {  // must not leave an OpenMP region
            out_of_memory = true;
        }
    });
    if (out_of_memory) throw std::bad_alloc();
    if (parts == 1) return;
    parallel_for(threads, rows.count(), [&](int64_t block) {
        for (int64_t row = rows.begin(block); row < rows.begin(block + 1); ++row) {
            Candidate* candidates = best_of_parts.get() + row * parts * a.k;
            std::partial_sort(candidates, candidates + a.k, candidates + parts * a.k, GoesBefore());
            write_row(a, row, candidates);
        }
    });
}

void sparse_decode(const SparseDecodeArguments& a) {
    const int threads = useful_threads(a.threads, products_of(a.code, a.columns));
    const int64_t rows = rows_per_task(a.code.rows, threads);
    parallel_for(threads, ceil_divide(a.code.rows, rows), [&](int64_t task) {
        for (int64_t row = task * rows; row < smaller((task + 1) * rows, a.code.rows); ++row) {
            const float* values = a.code.values + row * a.code.k;
            const int64_t* indices = a.code.indices + row * a.code.k;
            sum_rows(
                a.code.k, [=](int64_t i) { return values[i]; },
                [=](int64_t i) { return a.weight + indices[i] * a.weight_row_stride; }, a.columns,
                a.bias, a.output + row * a.columns);
        }
    });
}

void sampled_product(const SampledProductArguments& a) {
    const int threads = useful_threads(a.threads, static_cast<double>(a.rows) * a.k * a.columns);
    const int64_t rows = rows_per_task(a.rows, threads);
    parallel_for(threads, ceil_divide(a.rows, rows), [&](int64_t task) {
        for (int64_t row = task * rows; row < smaller((task + 1) * rows, a.rows); ++row) {
            const float* left = a.left + row * a.left_row_stride;
            const int64_t* indices = a.indices + row * a.k;
            dot_selected_rows(
                left, a.k, [=](int64_t i) { return a.weight + indices[i] * a.weight_row_stride; },
                a.columns, a.products + row * a.k);
        }
    });
}

void latent_sums(const LatentSumsArguments& a) {
    constexpr int64_t kLatentsPerTask = 64;
    const double written = static_cast<double>(a.latents) * a.columns;
    const int threads = useful_threads(a.threads, products_of(a.code, a.columns) + written);
    const ByLatent sorted = sorted_by_latent(a.code, a.latents);
    parallel_for(threads, ceil_divide(a.latents, kLatentsPerTask), [&](int64_t task) {
        const int64_t last = smaller((task + 1) * kLatentsPerTask, a.latents);
        for (int64_t latent = task * kLatentsPerTask; latent < last; ++latent) {
            const ByLatent::Element* elements = sorted.elements.get() + sorted.begin[latent];
            const int64_t count = sorted.begin[latent + 1] - sorted.begin[latent];
            double sum = 0;
            for (int64_t i = 0; i < count; ++i) sum += elements[i].value;
            a.totals[latent] = static_cast<float>(sum);
            sum_rows(
                count, [=](int64_t i) { return elements[i].value; },
                [=](int64_t i) { return a.rows + elements[i].row * a.row_stride; }, a.columns,
                nullptr, a.sums + latent * a.columns);
        }
    });
}

}  // namespace aefast::AEFAST_ISA
