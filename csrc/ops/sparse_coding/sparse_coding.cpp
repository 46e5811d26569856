// Soft thresholding, and the lasso by FISTA with working sets.
//
// A row's problem is solved on a working set of atoms, whose part of the Gram matrix fits into the
// first two levels of cache. Atoms are added until the duality gap over all atoms is small enough.
// On photographs a step takes 30 to 150 times fewer multiplications than one on all atoms; a fast
// matrix product does not make up for that.
#include "ops/sparse_coding/sparse_coding.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>
#include <numeric>
#include <utility>

#include "gemm/panel.h"
#include "shared/element.h"
#include "shared/parallel.h"
#include "shared/scratch.h"

namespace aefast::AEFAST_ISA {
namespace {

// -------------------------------------------------------------------------------- soft threshold

// NaN stays NaN.
inline float soft_threshold(float x, float threshold) {
    const float magnitude = std::fabs(x) - threshold;
    return magnitude <= 0.f ? 0.f : std::copysign(magnitude, x);
}

template <class Element>
void soft_threshold_as(const SoftThresholdArguments& a) {
    const auto* x = static_cast<const Element*>(a.x);
    auto* output = static_cast<Element*>(a.output);
    const int64_t size = elements_per_task(a.count, a.threads);
    parallel_for(a.threads, ceil_divide(a.count, size), [&](int64_t task) {
        const int64_t last = smaller((task + 1) * size, a.count);
#pragma GCC ivdep
        for (int64_t i = task * size; i < last; ++i)
            from_float(soft_threshold(to_float(x[i]), a.threshold), output[i]);
    });
}

template <class Element>
void soft_threshold_backward_as(const SoftThresholdBackwardArguments& a) {
    const auto* gradient = static_cast<const Element*>(a.gradient);
    const auto* x = static_cast<const Element*>(a.x);
    auto* output = static_cast<Element*>(a.grad_x);
    const int64_t size = elements_per_task(a.count, a.threads);
    parallel_for(a.threads, ceil_divide(a.count, size), [&](int64_t task) {
        const int64_t last = smaller((task + 1) * size, a.count);
#pragma GCC ivdep
        for (int64_t i = task * size; i < last; ++i) {
            const bool is_zero = std::fabs(to_float(x[i])) <= a.threshold;
            from_float(is_zero ? 0.f : to_float(gradient[i]), output[i]);
        }
    });
}

// ------------------------------------------------------------------------------------ the lasso

// Vectors are filled up with zeros to a multiple of this; these stay zeros in every step.
constexpr int64_t kLanes = kAtomLanes;

inline int64_t padded(int64_t count) { return ceil_divide(count, kLanes) * kLanes; }

// A sum over a padded vector, in lanes so that the compiler vectorizes it.
template <class Number, class Term>
inline Number sum(int64_t count, const Term& term) {
    Number lanes[kLanes] = {};
    for (int64_t i = 0; i < count; i += kLanes)
        for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
    Number total = 0;
    for (Number lane : lanes) total += lane;
    return total;
}

inline float largest_magnitude(const float* values, int64_t count) {
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < count; i += kLanes)
        for (int64_t lane = 0; lane < kLanes; ++lane)
            lanes[lane] = std::max(lanes[lane], std::fabs(values[i + lane]));
    return *std::max_element(lanes, lanes + kLanes);
}

// The rows of a matrix at a vector's nonzero elements.
struct SelectedRows {
    const float* matrix;
    int64_t row_stride;
    const int32_t* selected;
    int64_t count;
};

// target = sum over the selected rows r of values[r] times the row, of so many vectors of columns.
// Even and odd rows have separate sums: in one chain each addition would wait for the last.
template <int vectors>
inline void add_rows_tile(const SelectedRows& rows, const float* values, float* target) {
    Vector sums[2][vectors] = {};
    int64_t i = 0;
    for (; i + 1 < rows.count; i += 2) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const int64_t r = rows.selected[i + half];
            const float* row = rows.matrix + r * rows.row_stride;
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v)
                sums[half][v] += values[r] * load(row + v * kFloatLanes);
        }
    }
    if (i < rows.count) {
        const int64_t r = rows.selected[i];
        const float* row = rows.matrix + r * rows.row_stride;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[0][v] += values[r] * load(row + v * kFloatLanes);
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store(target + v * kFloatLanes, sums[0][v] + sums[1][v]);
}

// Adds the rows in all columns, a multiple of kLanes.
void add_rows(SelectedRows rows, const float* values, int64_t columns, float* target) {
    int64_t vectors = columns / kFloatLanes;
    for (; vectors >= 4; vectors -= 4) {
        add_rows_tile<4>(rows, values, target);
        rows.matrix += 4 * kFloatLanes;
        target += 4 * kFloatLanes;
    }
    if (vectors == 3) add_rows_tile<3>(rows, values, target);
    if (vectors == 2) add_rows_tile<2>(rows, values, target);
    if (vectors == 1) add_rows_tile<1>(rows, values, target);
}

int64_t select_nonzeros(const float* values, int64_t count, int32_t* selected) {
    int64_t nonzeros = 0;
    for (int64_t i = 0; i < count; ++i) {
        selected[nonzeros] = static_cast<int32_t>(i);
        nonzeros += values[i] != 0.f;
    }
    return nonzeros;
}

// A code and its product with the Gram matrix, for some atoms or for all.
struct Point {
    float* code;
    float* product;  // code Gram
};

// 1/2 |x - z D|^2 + penalty |z|_1 over some atoms, all vectors padded to `atoms`.
struct Problem {
    int64_t atoms;
    float penalty;
    double energy;  // |x|^2
    const float* correlation;
    const float* gram;
    int64_t gram_row_stride;
    Point current;
    float* residual;    // correlation - product, which the duality gap is made from
    int32_t* selected;  // room for the numbers of the nonzero codes
};

void multiply(const Problem& p, const Point& point) {
    const int64_t count = select_nonzeros(point.code, p.atoms, p.selected);
    add_rows({p.gram, p.gram_row_stride, p.selected, count}, point.code, p.atoms, point.product);
}

// The duality gap of the current code, with the dual point scale (x - z D). It is a sum of terms
// that are not negative, so that nothing cancels.
double duality_gap(const Problem& p) {
    const float* code = p.current.code;
#pragma GCC ivdep
    for (int64_t i = 0; i < p.atoms; ++i) p.residual[i] = p.correlation[i] - p.current.product[i];
    const double largest = largest_magnitude(p.residual, p.atoms);
    const double scale = largest > p.penalty ? p.penalty / largest : 1;
    const double explained = sum<double>(
        p.atoms, [&](int64_t i) { return double(code[i]) * (p.correlation[i] + p.residual[i]); });
    const double slack = sum<double>(p.atoms, [&](int64_t i) {
        return std::fabs(double(code[i])) * p.penalty - scale * code[i] * p.residual[i];
    });
    return (1 - scale) * (1 - scale) / 2 * std::max(p.energy - explained, 0.) + slack;
}

// One step's move from its starting point to the next code, and from the last code to the next.
struct StepSizes {
    float square;     // |next - point|^2
    float curvature;  // (next - point) Gram (next - point)
    float norm;       // |next|^2
    float change;     // |next - code|^2
    float along;      // (next - point) (next - code)
};

inline float sum_of_lanes(Vector lanes) {
    float values[kFloatLanes];
    store(values, lanes);
#pragma GCC unroll 4
    for (int width = kFloatLanes / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; ++lane) values[lane] += values[lane + width];
    return values[0];
}

// The point that a step starts from is code + weight (code - previous), and by linearity so is its
// product.
StepSizes measure(int64_t atoms, Point current, Point previous, Point next, float weight) {
    Vector square = {}, curvature = {}, norm = {}, change = {}, along = {};
    for (int64_t i = 0; i < atoms; i += kFloatLanes) {
        const Vector code = load(current.code + i), next_code = load(next.code + i);
        const Vector product = load(current.product + i);
        const Vector moved = next_code - (code + weight * (code - load(previous.code + i)));
        const Vector moved_product =
            load(next.product + i) - (product + weight * (product - load(previous.product + i)));
        square += moved * moved;
        curvature += moved * moved_product;
        norm += next_code * next_code;
        change += (next_code - code) * (next_code - code);
        along += moved * (next_code - code);
    }
    return {sum_of_lanes(square), sum_of_lanes(curvature), sum_of_lanes(norm), sum_of_lanes(change),
            sum_of_lanes(along)};
}

constexpr int64_t kStepsPerCheck = 8;
// A step over so many atoms may take a millisecond.
constexpr int64_t kManyAtoms = 2048;
// A step that changes the code by less than this, relatively, without a smaller gap, is taken for
// float32's rounding.
constexpr float kSmallestChange = 5e-7f;
// The square of the relative change below which rounding hides the curvature along a step.
constexpr float kSmallestMeasured = 1e-8f;

// FISTA with backtracking (Beck and Teboulle 2009), its momentum restarted where a step leads
// against it (O'Donoghue and Candes 2015), from the current code until its gap is small enough, no
// steps are left, or float32 has no more to give: then it returns false. largest_curvature is an
// estimate from below of the Gram matrix's largest eigenvalue, raised where a step finds more.
bool minimize(Problem& p, Point previous, Point next, double allowed_gap, float* largest_curvature,
              int64_t* steps_left) {
    float momentum = 1, weight = 0;
    double last_gap = INFINITY;
    std::copy_n(p.current.code, p.atoms, previous.code);
    std::copy_n(p.current.product, p.atoms, previous.product);
    for (int64_t step = 1; *steps_left > 0; ++step) {
        --*steps_left;
        const bool is_checked = step % kStepsPerCheck == 0;
        if ((is_checked || p.atoms >= kManyAtoms) && interrupted()) return false;
        const Point current = p.current;
        const float step_size = 1 / *largest_curvature, threshold = step_size * p.penalty;
#pragma GCC ivdep
        for (int64_t i = 0; i < p.atoms; ++i) {
            const float code = current.code[i], product = current.product[i];
            const float point = code + weight * (code - previous.code[i]);
            const float point_product = product + weight * (product - previous.product[i]);
            next.code[i] =
                soft_threshold(point + step_size * (p.correlation[i] - point_product), threshold);
        }
        multiply(p, next);
        const StepSizes sizes = measure(p.atoms, current, previous, next, weight);
        if (sizes.square > kSmallestMeasured * sizes.norm &&
            sizes.curvature > *largest_curvature * sizes.square) {
            *largest_curvature = 1.02f * sizes.curvature / sizes.square;
            momentum = 1, weight = 0;
            continue;
        }
        if (sizes.along < 0) {
            momentum = 1, weight = 0;
        } else {
            const float before = momentum;
            momentum = (1 + std::sqrt(1 + 4 * before * before)) / 2;
            weight = (before - 1) / momentum;
        }
        p.current = next;
        next = previous;
        previous = current;
        if (!is_checked) continue;
        const double gap = duality_gap(p);
        if (gap <= allowed_gap) return true;
        if (gap >= std::exchange(last_gap, gap) &&
            sizes.change <= kSmallestChange * kSmallestChange * sizes.norm)
            return false;
    }
    return true;
}

// The vectors of one problem in one piece of memory.
class Vectors {
  public:
    Vectors(Scratch& scratch, int64_t count, int64_t atoms)
        : next_(static_cast<float*>(scratch.reserve(sizeof(float) * count * atoms))),
          atoms_(atoms) {}
    float* take() { return std::exchange(next_, next_ + atoms_); }
    Point take_point() {
        float* code = take();
        return {code, take()};
    }

  private:
    float* next_;
    int64_t atoms_;
};

thread_local Scratch all_scratch, part_scratch, gram_scratch;

// A working set begins with this many atoms and doubles the nonzero codes' number.
constexpr int64_t kFewestAtoms = 32, kFewestShare = 8;

// The gap, as a share, that a working set is solved to. A smaller share needs fewer working sets,
// whose gathering is expensive, but more of float32's precision.
constexpr double kInnerShare = 0.1;

class Row {
  public:
    Row(const SparseEncodeArguments& a, int64_t row) : a_(a), largest_curvature_(a.curvature) {
        const int64_t atoms = padded(a.atoms);
        Vectors vectors(all_scratch, 6, atoms);
        float* correlation = vectors.take();
        const Point current = vectors.take_point();
        float* residual = vectors.take();
        working_ = reinterpret_cast<int32_t*>(vectors.take());
        all_ = {atoms,       a.penalty, a.energies[row],
                correlation, a.gram,    atoms,
                current,     residual,  reinterpret_cast<int32_t*>(vectors.take())};
        code_ = a.codes + row * a.atoms;
        std::fill_n(std::copy_n(a.correlations + row * a.atoms, a.atoms, correlation),
                    atoms - a.atoms, 0.f);
        std::fill_n(std::copy_n(code_, a.atoms, current.code), atoms - a.atoms, 0.f);
    }

    void solve() {
        const double allowed_gap = a_.tolerance * all_.energy / 2;
        int64_t steps_left = a_.steps;
        for (bool goes_on = true;;) {
            multiply(all_, all_.current);
            const double gap = duality_gap(all_);
            if (gap <= allowed_gap || steps_left == 0 || !goes_on) break;
            goes_on = minimize_part(select_atoms(), kInnerShare * gap, &steps_left);
        }
        std::copy_n(all_.current.code, a_.atoms, code_);
    }

  private:
    // The nonzero codes' atoms and, of those that would become nonzero, the most correlated ones.
    int64_t select_atoms() {
        const float* code = all_.current.code;
        const float* residual = all_.residual;
        const int64_t nonzeros = select_nonzeros(code, all_.atoms, working_);
        int64_t count = nonzeros;
        for (int64_t i = 0; i < a_.atoms; ++i)
            if (code[i] == 0.f && std::fabs(residual[i]) > a_.penalty)
                working_[count++] = static_cast<int32_t>(i);
        const int64_t most = larger(larger(kFewestAtoms, a_.atoms / kFewestShare), 2 * nonzeros);
        if (count <= most) return count;
        std::nth_element(working_ + nonzeros, working_ + most, working_ + count,
                         [=](int32_t i, int32_t j) {
                             const float a = std::fabs(residual[i]), b = std::fabs(residual[j]);
                             return a > b || (a == b && i < j);
                         });
        return most;
    }

    // Minimizes over the first `count` atoms of working_, or over all atoms if that saves little.
    bool minimize_part(int64_t count, double allowed_gap, int64_t* steps_left) {
        const bool is_whole = count > a_.atoms / 2;
        if (is_whole) {
            count = a_.atoms;
            std::iota(working_, working_ + count, 0);
        }
        const int64_t atoms = padded(count);
        Vectors vectors(part_scratch, 9, atoms);
        float* correlation = vectors.take();
        const Point current = vectors.take_point(), previous = vectors.take_point(),
                    next = vectors.take_point();
        float* residual = vectors.take();
        auto* selected = reinterpret_cast<int32_t*>(vectors.take());
        gather(all_.correlation, count, correlation);
        gather(all_.current.code, count, current.code);
        gather(all_.current.product, count, current.product);
        const float* gram = is_whole ? all_.gram : gather_gram(count);
        Problem part = {atoms, a_.penalty, all_.energy, correlation, gram,
                        atoms, current,    residual,    selected};
        const bool goes_on =
            minimize(part, previous, next, allowed_gap, &largest_curvature_, steps_left);
        for (int64_t i = 0; i < count; ++i) all_.current.code[working_[i]] = part.current.code[i];
        return goes_on;
    }

    const float* gather_gram(int64_t count) const {
        const int64_t atoms = padded(count);
        auto* gram = static_cast<float*>(gram_scratch.reserve(sizeof(float) * count * atoms));
        for (int64_t i = 0; i < count; ++i)
            gather(all_.gram + working_[i] * all_.gram_row_stride, count, gram + i * atoms);
        return gram;
    }

    void gather(const float* source, int64_t count, float* target) const {
        for (int64_t i = 0; i < count; ++i) target[i] = source[working_[i]];
        std::fill_n(target + count, padded(count) - count, 0.f);
    }

    const SparseEncodeArguments& a_;
    float largest_curvature_;
    Problem all_;
    int32_t* working_;
    float* code_;
};

}  // namespace

void soft_threshold(const SoftThresholdArguments& a) {
    with_element(a.element_type, [&](auto element) { soft_threshold_as<decltype(element)>(a); });
}

void soft_threshold_backward(const SoftThresholdBackwardArguments& a) {
    with_element(a.element_type,
                 [&](auto element) { soft_threshold_backward_as<decltype(element)>(a); });
}

void sparse_encode(const SparseEncodeArguments& a) {
    std::atomic<bool> out_of_memory{false};
    parallel_for(a.threads, a.rows, [&](int64_t row) {
        try {
            Row(a, row).solve();
        } catch (const std::bad_alloc&) {  // must not leave an OpenMP region
            out_of_memory = true;
        }
    });
    if (out_of_memory) throw std::bad_alloc();
}

}  // namespace aefast::AEFAST_ISA
