// GEMM on bfloat16 matrix units, where less than float32's precision is asked for.
//
// Both operands are split into bfloat16 terms (bfloat16.h), and the products of terms are summed in
// float32: three products of two terms for `high`, one for `medium`. What is left out is smaller
// than the last place that is kept.
//
// `highest` takes multiply-adds. Six products of three terms were as accurate, but faster only for
// 256 rows and more of both operands (by 1.25 at most), and half as fast for 32 (Xeon with AMX, one
// thread). A rule by the number of rows is none: Gibbs samples must not depend on how a batch is
// split.
//
// Infinities and NaNs: an infinity, or a number that bfloat16 rounds to one, leaves infinities and
// NaNs in its lower terms, where eager arithmetic has one infinity. So an output that is not finite
// says nothing, and then gemm_float32 computes the whole product anew. A finite output is right.
// A product that is added to an output cannot be computed anew: its operands are looked at first.
//
// Subnormal numbers: the unit takes them for zero. An operand below 1e-33 loses its lower terms and
// a product below 1.2e-38 is lost. That is an absolute error, of 1.2e-38 for each product.
#include <atomic>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "gemm/bfloat16.h"
#include "gemm/blocking.h"
#include "gemm/gemm.h"
#include "shared/scratch.h"
#include "simd/tiles.h"

namespace aefast::AEFAST_ISA {
namespace {

constexpr int64_t kStepDepth = 2 * kTileSide;  // the k of one tile instruction
constexpr int64_t kPanelSide = 2 * kTileSide;  // 2 x 2 tiles of sums reuse every loaded tile
// One step of one panel and term: the two tiles that a multiplication needs.
constexpr int64_t kStepBytes = 2 * kTileBytes;

// Every term of a panel of each operand fits into the L1 cache (48 KB) beside the other's.
constexpr int64_t kPanelBytes = 24 << 10;
// Rows at once: their sums take 1 MB and they, packed, 200 KB of the 2 MB of L2.
constexpr int64_t kPanelsAtOnce = 256 / kPanelSide;
constexpr int64_t kMostColumns = 1024;
// The packed right operand of a thread: 4 MB, or one block of k where that is more.
constexpr int64_t kPackedBytes = 4 << 20;
constexpr int64_t kPackingCost = 64;  // estimated from the packing alone and the unit's peak rate

thread_local Scratch right_scratch;

// ------------------------------------------------------------------------------------- packing

inline Floats16 load_floats(const float* source) {
    Floats16 value;
    std::memcpy(&value, source, sizeof value);
    return value;
}

// Rows become columns: four times, the first eight rows interleave with the last eight.
inline void transpose(Words16 rows[kTileSide]) {
#pragma GCC unroll 4
    for (int round = 0; round < 4; ++round) {
        Words16 next[kTileSide];
#pragma GCC unroll 8
        for (int row = 0; row < kTileSide / 2; ++row) {
            const Words16 first = rows[row], second = rows[row + kTileSide / 2];
            next[2 * row] = __builtin_shufflevector(first, second, 0, 16, 1, 17, 2, 18, 3, 19, 4,
                                                    20, 5, 21, 6, 22, 7, 23);
            next[2 * row + 1] = __builtin_shufflevector(first, second, 8, 24, 9, 25, 10, 26, 11, 27,
                                                        12, 28, 13, 29, 14, 30, 15, 31);
        }
#pragma GCC unroll 16
        for (int row = 0; row < kTileSide; ++row) rows[row] = next[row];
    }
}

// Splits 16 rows or columns of an operand by 32 k into a tile for each term, terms lying
// term_bytes apart. Word p of a tile pairs k = p with k = p + 16: the order of k is free as long as
// both operands keep the same, and this one takes whole vectors however the operand lies.
//
// `source` is contiguous in k (then a line is one of the 16, and gives a row of words), or else in
// the 16 (then a line is one k, and two lines make a row). Either may be the way round that the
// unit wants: it wants the left operand's words by row of the output, the right's by pair of k.
template <int terms>
void split_tile(const float* source, int64_t line_stride, bool contiguous_in_k, bool transposed,
                unsigned char* packed, int64_t term_bytes) {
    const int64_t second = contiguous_in_k ? kTileSide : kTileSide * line_stride;
    Words16 words[terms][kTileSide];
#pragma GCC unroll 16
    for (int line = 0; line < kTileSide; ++line) {
        Floats16 low = load_floats(source + line * line_stride);
        Floats16 high = load_floats(source + line * line_stride + second);
#pragma GCC unroll 2
        for (int term = 0; term < terms; ++term) {
            const Words16 low_term = split_bfloat16(low);
            words[term][line] = pair_bfloat16(low_term, split_bfloat16(high));
        }
    }
#pragma GCC unroll 2
    for (int term = 0; term < terms; ++term) {
        if (transposed) transpose(words[term]);
        std::memcpy(packed + term * term_bytes, words[term], kTileBytes);
    }
}

enum class Side { left, right };

// One tile of one step, whatever the strides and however little of it lies inside the operand.
template <int terms>
void pack_tile(const MatrixView& operand, Side side, int64_t row, int64_t k, unsigned char* packed,
               int64_t term_bytes) {
    const float* source = operand.data + row * operand.row_stride + k * operand.column_stride;
    const int64_t rows = smaller(kTileSide, operand.rows - row);
    const int64_t depth = smaller(kStepDepth, operand.columns - k);
    const bool whole = rows == kTileSide && depth == kStepDepth;
    if (whole && operand.column_stride == 1)
        return split_tile<terms>(source, operand.row_stride, true, side == Side::right, packed,
                                 term_bytes);
    if (whole && operand.row_stride == 1)
        return split_tile<terms>(source, operand.column_stride, false, side == Side::left, packed,
                                 term_bytes);
    float copy[kTileSide][kStepDepth] = {};
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < depth; ++c)
            copy[r][c] = source[r * operand.row_stride + c * operand.column_stride];
    split_tile<terms>(copy[0], kStepDepth, true, side == Side::right, packed, term_bytes);
}

// A panel of kPanelSide rows: [term][step][tile]. Tiles past the operand's edge are zeros.
template <int terms>
void pack_panel(const MatrixView& operand, Side side, int64_t panel, Range steps,
                unsigned char* packed) {
    const int64_t term_bytes = (steps.end - steps.begin) * kStepBytes;
    for (int64_t step = steps.begin; step < steps.end; ++step)
        for (int half = 0; half < 2; ++half) {
            const int64_t row = panel * kPanelSide + half * kTileSide;
            unsigned char* tile = packed + (step - steps.begin) * kStepBytes + half * kTileBytes;
            if (row < operand.rows)
                pack_tile<terms>(operand, side, row, step * kStepDepth, tile, term_bytes);
            else
                for (int term = 0; term < terms; ++term)
                    std::memset(tile + term * term_bytes, 0, kTileBytes);
        }
}

// Steps of k in a block, of which every term of a panel takes kPanelBytes.
template <int terms>
constexpr int64_t kBlockSteps = kPanelBytes / (terms * kStepBytes);

// The depth, cut into blocks of steps.
template <int terms>
EvenParts blocks_of(int64_t depth) {
    const int64_t steps = ceil_divide(depth, kStepDepth);
    return EvenParts(steps, larger(1, ceil_divide(steps, kBlockSteps<terms>)));
}

// Some panels of the right operand, [panel][block of k].
template <int terms>
void pack_right(const MatrixView& right, Range panels, Range blocks, unsigned char* packed) {
    const EvenParts depth_blocks = blocks_of<terms>(right.columns);
    const int64_t count = blocks.end - blocks.begin;
    for (int64_t panel = panels.begin; panel < panels.end; ++panel)
        for (int64_t block = 0; block < count; ++block)
            pack_panel<terms>(right, Side::right, panel, depth_blocks[blocks.begin + block],
                              packed + (panel * count + block) * kPanelBytes);
}

// ------------------------------------------------------------------------------------- one panel

// sums[kPanelSide, kPanelSide] = left panel * right panel. The products of the smallest terms come
// first, so that only those of the first terms are rounded at the size of the result.
template <int terms>
void multiply_panels(int64_t steps, const unsigned char* left, const unsigned char* right,
                     float* sums) {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (int order = terms - 1; order >= 0; --order)
        for (int left_term = 0; left_term <= order; ++left_term) {
            const unsigned char* a = left + left_term * steps * kStepBytes;
            const unsigned char* b = right + (order - left_term) * steps * kStepBytes;
            for (int64_t step = 0; step < steps; ++step, a += kStepBytes, b += kStepBytes) {
                tile_load<4>(a, kTileRowBytes);
                tile_load<6>(b, kTileRowBytes);
                tile_multiply<0, 4, 6>();
                tile_load<7>(b + kTileBytes, kTileRowBytes);
                tile_multiply<1, 4, 7>();
                tile_load<5>(a + kTileBytes, kTileRowBytes);
                tile_multiply<2, 5, 6>();
                tile_multiply<3, 5, 7>();
            }
        }
    constexpr int64_t row_bytes = kPanelSide * sizeof(float);
    tile_store<0>(sums, row_bytes);
    tile_store<1>(sums + kTileSide, row_bytes);
    tile_store<2>(sums + kTileSide * kPanelSide, row_bytes);
    tile_store<3>(sums + kTileSide * kPanelSide + kTileSide, row_bytes);
}

// target = sums + addend. Says whether all of it is finite.
inline bool add_row(const float* sums, const float* addend, float* target, int64_t count) {
    constexpr uint32_t kInfinity = 0x7f800000;
    uint32_t largest = 0;
    for (int64_t column = 0; column < count; ++column) {
        const float value = sums[column] + addend[column];
        uint32_t magnitude;
        std::memcpy(&magnitude, &value, sizeof magnitude);
        magnitude &= ~(uint32_t{1} << 31);
        largest = magnitude > largest ? magnitude : largest;
        target[column] = value;
    }
    return largest < kInfinity;
}

// Adds up and stores the part of a panel product that lies inside the output. A stride of 0 repeats
// the addend's row.
bool add_panel(const float* sums, const float* addend, int64_t addend_stride, float* target,
               int64_t target_stride, int64_t rows, int64_t columns) {
    bool finite = true;
    for (int64_t row = 0; row < rows; ++row) {
        // The usual width as a constant, for a loop without a tail.
        finite &= columns == kPanelSide ? add_row(sums, addend, target, kPanelSide)
                                        : add_row(sums, addend, target, columns);
        sums += kPanelSide;
        addend += addend_stride;
        target += target_stride;
    }
    return finite;
}

// ------------------------------------------------------------------------------------- one block

// A product on one thread, cut into panels of rows and of columns and blocks of steps of k.
template <int terms>
class TileProduct {
  public:
    explicit TileProduct(const GemmArguments& arguments)
        : arguments_(arguments),
          row_panels_(ceil_divide(arguments.left.rows, kPanelSide)),
          column_panels_(ceil_divide(arguments.right.rows, kPanelSide)),
          depth_blocks_(blocks_of<terms>(arguments.left.columns)) {}

    // Whether every output came out finite.
    bool run() {
        if (arguments_.packed.data == nullptr) return pack_and_run();
        packed_right_ = arguments_.packed.data;
        packed_blocks_ = {0, depth_blocks_.count()};
        return multiply_all_rows();
    }

  private:
    bool pack_and_run() {
        const int64_t block_bytes = column_panels_ * kPanelBytes;
        const int64_t blocks_at_once =
            larger(1, smaller(depth_blocks_.count(), kPackedBytes / block_bytes));
        auto* packed =
            static_cast<unsigned char*>(right_scratch.reserve(blocks_at_once * block_bytes));
        packed_right_ = packed;
        for (int64_t block = 0; block < depth_blocks_.count(); block += blocks_at_once) {
            packed_blocks_ = {block, smaller(block + blocks_at_once, depth_blocks_.count())};
            pack_right<terms>(arguments_.right, {0, column_panels_}, packed_blocks_, packed);
            if (!multiply_all_rows()) return false;
        }
        return true;
    }

    bool multiply_all_rows() const {
        for (int64_t panel = 0; panel < row_panels_; panel += kPanelsAtOnce) {
            if (interrupted()) return true;
            if (!multiply_rows({panel, smaller(panel + kPanelsAtOnce, row_panels_)})) return false;
        }
        return true;
    }

    const unsigned char* packed_panel(int64_t panel, int64_t block) const {
        const int64_t blocks = packed_blocks_.end - packed_blocks_.begin;
        return packed_right_ + (panel * blocks + block - packed_blocks_.begin) * kPanelBytes;
    }

    bool multiply_rows(Range panels) const {
        bool finite = true;
        for (int64_t block = packed_blocks_.begin; block < packed_blocks_.end; ++block)
            finite &= multiply_block(block, panels);
        if (packed_blocks_.end == depth_blocks_.count())
            activate_rows(arguments_, {panels.begin * kPanelSide,
                                       smaller(panels.end * kPanelSide, arguments_.left.rows)});
        return finite;
    }

    bool multiply_block(int64_t block, Range panels) const {
        alignas(64) unsigned char packed_left[kPanelsAtOnce * kPanelBytes];
        for (int64_t panel = panels.begin; panel < panels.end; ++panel)
            pack_panel<terms>(arguments_.left, Side::left, panel, depth_blocks_[block],
                              packed_left + (panel - panels.begin) * kPanelBytes);
        bool finite = true;
        for (int64_t column = 0; column < column_panels_; ++column)
            for (int64_t row = panels.begin; row < panels.end; ++row)
                finite &= multiply_panels_at(block, row, column,
                                             packed_left + (row - panels.begin) * kPanelBytes);
        return finite;
    }

    bool multiply_panels_at(int64_t block, int64_t row_panel, int64_t column_panel,
                            const unsigned char* left) const {
        static constexpr float kZeros[kPanelSide] = {};
        alignas(64) float sums[kPanelSide * kPanelSide];
        const Range steps = depth_blocks_[block];
        multiply_panels<terms>(steps.end - steps.begin, left, packed_panel(column_panel, block),
                               sums);
        const int64_t row = row_panel * kPanelSide, column = column_panel * kPanelSide;
        const int64_t rows = smaller(kPanelSide, arguments_.left.rows - row);
        const int64_t columns = smaller(kPanelSide, arguments_.right.rows - column);
        const int64_t stride = arguments_.output_row_stride;
        float* target = sums_of(arguments_) + row * stride + column;
        if (block > 0 || arguments_.accumulate) {
            const bool finite = add_panel(sums, target, stride, target, stride, rows, columns);
            return finite || arguments_.accumulate;  // it may have been infinite before
        }
        const float* bias = arguments_.bias != nullptr ? arguments_.bias + column : kZeros;
        return add_panel(sums, bias, 0, target, stride, rows, columns);
    }

    const GemmArguments& arguments_;
    int64_t row_panels_, column_panels_;
    EvenParts depth_blocks_;  // of steps
    // The right operand's panels, [panel][block], for these blocks.
    const unsigned char* packed_right_;
    Range packed_blocks_;
};

// Calls body with the number of terms as a constant: that of `high` or `medium`.
template <class Body>
auto with_terms(Precision precision, const Body& body) {
    if (precision == Precision::high) return body(std::integral_constant<int, 2>());
    return body(std::integral_constant<int, 1>());
}

bool multiply_block(const GemmArguments& arguments) {
    const TileConfiguration configuration;
    return with_terms(arguments.precision,
                      [&](auto terms) { return TileProduct<terms>(arguments).run(); });
}

// Below one panel most of a tile would be padding.
bool fills_a_panel(const MatrixView& operand) {
    return operand.rows >= kPanelSide && operand.columns >= kStepDepth;
}

// Whether no sum of products of two such operands, of up to 2^17 each, can leave the finite range.
bool is_moderate(const MatrixView& operand, int threads) {
    constexpr float kLimit = 0x1p55f;
    const bool by_rows = operand.column_stride == 1;
    const int64_t lines = by_rows ? operand.rows : operand.columns;
    const int64_t length = by_rows ? operand.columns : operand.rows;
    const int64_t line_stride = by_rows ? operand.row_stride : operand.column_stride;
    const int64_t stride = by_rows ? 1 : operand.row_stride;
    std::atomic<bool> moderate{true};
    parallel_for(threads, lines, [&](int64_t line) {
        const float* values = operand.data + line * line_stride;
        bool below = true;
        if (stride == 1)
            for (int64_t i = 0; i < length; ++i) below &= std::fabs(values[i]) < kLimit;
        else
            for (int64_t i = 0; i < length; ++i) below &= std::fabs(values[i * stride]) < kLimit;
        if (!below) moderate = false;
    });
    return moderate;
}

bool may_accumulate(const GemmArguments& arguments) {
    return arguments.left.columns <= 1 << 17 && is_moderate(arguments.left, arguments.threads) &&
           is_moderate(arguments.right, arguments.threads);
}

}  // namespace

bool gemm_tiles(const GemmArguments& arguments) {
    const BlockShape shape = {kPanelSide, kPanelSide, kMostColumns, kPackingCost};
    std::atomic<bool> finite{true};
    BlockGrid(arguments, shape).for_each_block([&](const GemmArguments& block) {
        if (finite && !multiply_block(block)) finite = false;
    });
    return finite;
}

void gemm(const GemmArguments& arguments) {
    const bool fits_tiles = arguments.precision != Precision::highest &&
                            fills_a_panel(arguments.left) && fills_a_panel(arguments.right) &&
                            (!arguments.accumulate || may_accumulate(arguments));
    if (fits_tiles && gemm_tiles(arguments)) return;
    gemm_float32(arguments);
}

int64_t packed_bytes_per_column(const MatrixView& right, Precision precision) {
    return with_terms(precision, [&](auto terms) {
        return blocks_of<terms>(right.columns).count() * kPanelBytes / kPanelSide;
    });
}

int64_t packed_bytes(const MatrixView& right, Precision precision) {
    return ceil_divide(right.rows, kPanelSide) * kPanelSide *
           packed_bytes_per_column(right, precision);
}

void pack_tiles(const MatrixView& right, Precision precision, unsigned char* packed, int threads) {
    with_terms(precision, [&](auto terms) {
        const int64_t panels = ceil_divide(right.rows, kPanelSide);
        const Range blocks = {0, blocks_of<terms>(right.columns).count()};
        const EvenParts parts(panels, smaller(panels, threads));
        parallel_for(threads, parts.count(),
                     [&](int64_t part) { pack_right<terms>(right, parts[part], blocks, packed); });
    });
}

}  // namespace aefast::AEFAST_ISA
