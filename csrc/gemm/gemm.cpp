// A blocked float32 GEMM. Both operands are first packed into panels, whatever their strides. The
// inner loop then makes two multiply-adds per cycle into a tile of sums in registers.
//
// The order of an element's sum over k depends on K, the left operand's layout and the number of
// columns, whose last are summed otherwise; so the bits are the same for any number of threads.
#include "gemm/gemm.h"

#include <cstring>
#include <utility>

#include "gemm/blocking.h"
#include "gemm/panel.h"
#include "shared/scratch.h"

namespace aefast::AEFAST_ISA {
namespace {

// A tile of sums is kTileRows by two vectors. That also keeps loads under the multiply-adds.

// A panel of the right operand stays in the L1 cache while a block of the left, in L2, passes it.
// Any block from 192 to 512 is within 3% of the best speed. The shortest has the smallest error
// (2.3e-7 against 2.9e-7 at 384), since each block has its own sum.
constexpr int64_t kDepthBlock = 192;
constexpr int64_t kTilesAtOnce = 8;  // a block of the left operand
// The packed right operand of a thread: 2 MB, or one block of k where that is more.
constexpr int64_t kPackedFloats = 1 << 19;
constexpr int64_t kMostColumns = 2048;
constexpr int64_t kPackingCost = 8;  // estimated: 1/4 cycle an element, 32 products a cycle

thread_local Scratch right_scratch;

// ------------------------------------------------------------------------------------- packing

// The layout of a packed tile of the left operand: that of the source, so that packing is a plain
// copy if one of its strides is 1. Both strides are constants in the inner loop.
struct RowsApart {  // k is contiguous
    // Not a power of two, which would put all rows of a tile into the same few cache sets.
    static constexpr int64_t kRowStride = kDepthBlock + 16;
    static constexpr int64_t kDepthStride = 1;
    static constexpr int64_t kSize = kTileRows * kRowStride;
    static constexpr int64_t kCopiedDepth = kDepthBlock;
};
struct RowsTogether {  // the rows of the tile are contiguous
    static constexpr int64_t kRowStride = 1;
    static constexpr int64_t kDepthStride =
        (kTileRows + kFloatLanes - 1) / kFloatLanes * kFloatLanes;
    static constexpr int64_t kSize = kDepthBlock * kDepthStride;
    // All tiles take a few k before any takes the next: a k is a row of the source, and only part
    // of each cache line belongs to one tile.
    static constexpr int64_t kCopiedDepth = 16;
};

template <class Layout>
void pack_left_tile(const MatrixView& left, Range rows, Range depth, float* packed) {
    const float* source =
        left.data + rows.begin * left.row_stride + depth.begin * left.column_stride;
    const int64_t height = rows.end - rows.begin, count = depth.end - depth.begin;
    if (Layout::kDepthStride == 1 && left.column_stride == 1) {
        for (int64_t r = 0; r < height; ++r)
            copy_row(source + r * left.row_stride, count, packed + r * Layout::kRowStride);
    } else if (Layout::kRowStride == 1 && left.row_stride == 1) {
        // Whole vectors, but for the last tile: rows past the tile's are never read.
        const bool is_whole = rows.begin + Layout::kDepthStride <= left.rows;
        for (int64_t k = 0; k < count; ++k) {
            float* target = packed + k * Layout::kDepthStride;
            if (is_whole)
                std::memcpy(target, source + k * left.column_stride,
                            sizeof(float) * Layout::kDepthStride);
            else
                copy_row(source + k * left.column_stride, height, target);
        }
    } else {
        for (int64_t k = 0; k < count; ++k)
            for (int64_t r = 0; r < height; ++r)
                packed[r * Layout::kRowStride + k * Layout::kDepthStride] =
                    source[r * left.row_stride + k * left.column_stride];
    }
}

// ------------------------------------------------------------------------------------- one tile

// A matrix in memory that a tile is read from or written to.
template <class Float>
struct TilePointer {
    Float* data;
    int64_t row_stride;
};

// target = left * right + addend. The addend is what earlier blocks of k, or earlier products, left
// in the target, or the bias, one row for all (row stride 0). It is added last: sums that began
// with it would be one long chain of roundings instead of several short ones. `width` is the number
// of columns that exist.
using MultiplyTile = void (*)(int64_t depth, const float* left, const float* right,
                              TilePointer<const float> addend, TilePointer<float> target,
                              int64_t width);

// sums += left * right, in registers.
template <class Layout, int vectors, int rows>
inline void add_products(int64_t depth, const float* left, const float* right,
                         Vector (&sums)[rows][vectors]) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < depth; ++k) {
        Vector columns[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v)
            columns[v] = load(right + k * kPanelColumns + v * kFloatLanes);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const float value = left[r * Layout::kRowStride + k * Layout::kDepthStride];
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) sums[r][v] += value * columns[v];
        }
    }
}

template <class Layout, int rows>
void multiply_tile(int64_t depth, const float* left, const float* right,
                   TilePointer<const float> addend, TilePointer<float> target, int64_t) {
    constexpr int vectors = 2;
    // A weight's gradient is summed over many blocks of k, each of which adds to sums that have
    // left the L1 cache: fetched while the products are made, they take 3% less.
    if constexpr (Layout::kRowStride == 1) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v)
                __builtin_prefetch(target.data + r * target.row_stride + v * kFloatLanes, 1);
    }
    Vector sums[rows][vectors] = {};
    add_products<Layout>(depth, left, right, sums);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v)
            store(target.data + r * target.row_stride + v * kFloatLanes,
                  sums[r][v] + load(addend.data + r * addend.row_stride + v * kFloatLanes));
}

// A tile of which only the first `width` columns exist: no other is read or written, for a copy of
// the whole tile took 15% of a step with 30 inputs. k is summed in four parts: vendor libraries
// sum such narrow products in many parts, and with a single one the error was up to 1.9 times
// theirs, with four about the same.
template <class Layout, int vectors, int rows>
void multiply_ragged_tile(int64_t depth, const float* left, const float* right,
                          TilePointer<const float> addend, TilePointer<float> target,
                          int64_t width) {
    constexpr int last = vectors - 1;
    const int64_t rest = width - last * kFloatLanes;  // the columns in the last vector
    Vector totals[rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        const float* row = addend.data + r * addend.row_stride;
        if constexpr (last > 0) totals[r][0] = load(row);
        totals[r][last] = load_first(row + last * kFloatLanes, rest);
    }
    const EvenParts quarters(depth, 4);
    for (int64_t quarter = 0; quarter < quarters.count(); ++quarter) {
        const Range k = quarters[quarter];
        Vector sums[rows][vectors] = {};
        add_products<Layout>(k.end - k.begin, left + k.begin * Layout::kDepthStride,
                             right + k.begin * kPanelColumns, sums);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) totals[r][v] += sums[r][v];
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        float* row = target.data + r * target.row_stride;
        if constexpr (last > 0) store(row, totals[r][0]);
        store_first(row + last * kFloatLanes, rest, totals[r][last]);
    }
}

// The kernel for a tile of so many rows, up to kTileRows, and columns. Tiles of the output have
// about the same height: a thin one at the end could not keep the multipliers busy.
template <class Layout, int... heights>
MultiplyTile multiply_tile_of(int64_t rows, int64_t width, std::integer_sequence<int, heights...>) {
    static constexpr MultiplyTile whole[] = {multiply_tile<Layout, heights + 1>...};
    static constexpr MultiplyTile ragged[] = {multiply_ragged_tile<Layout, 2, heights + 1>...};
    static constexpr MultiplyTile narrow[] = {multiply_ragged_tile<Layout, 1, heights + 1>...};
    if (width == kPanelColumns) return whole[rows - 1];
    return (width > kFloatLanes ? ragged : narrow)[rows - 1];
}

// ------------------------------------------------------------------------------ a few columns

// So many columns after the last whole vector's leave most of a tile's vector empty, which takes as
// many multiply-adds as a full one. Each by itself, with vectors along k or along the rows, they
// take a fifth less time of a product with 50 columns (Zen 4).
constexpr int64_t kFewColumns = kFloatLanes / 4;

// totals[r] = the sum of all lanes of rows[r].
inline Vector add_lanes(Vector (&rows)[kFloatLanes]) {
#pragma GCC unroll 4
    for (int count = kFloatLanes / 2; count > 0; count /= 2)
#pragma GCC unroll 8
        for (int r = 0; r < count; ++r)
            rows[r] = interleave_low(rows[r], rows[r + count]) +
                      interleave_high(rows[r], rows[r + count]);
    return rows[0];
}

// sums[r] = row r of the left tile * column, of which zeros fill the last vector.
inline void multiply_column(RowsApart, int64_t rows, int64_t depth, const float* left,
                            const float* column, float* sums) {
    for (int64_t first = 0; first < rows; first += kFloatLanes) {
        const float* row[kFloatLanes];  // past the last one: that once more
        for (int r = 0; r < kFloatLanes; ++r)
            row[r] = left + smaller(first + r, rows - 1) * RowsApart::kRowStride;
        Vector products[kFloatLanes] = {};
        for (int64_t k = 0; k < depth; k += kFloatLanes) {
            const Vector factors = load(column + k);
#pragma GCC unroll 16
            for (int r = 0; r < kFloatLanes; ++r) products[r] += load(row[r] + k) * factors;
        }
        store(sums + first, add_lanes(products));
    }
}

// The same of a tile whose rows lie together; k is summed in four parts, as in a ragged tile.
inline void multiply_column(RowsTogether, int64_t rows, int64_t depth, const float* left,
                            const float* column, float* sums) {
    constexpr int64_t kParts = 4;
    for (int64_t first = 0; first < rows; first += kFloatLanes) {
        Vector parts[kParts] = {};
        for (int64_t k = 0; k < depth; k += kParts)
#pragma GCC unroll 4
            for (int64_t part = 0; part < kParts; ++part)
                if (k + part < depth)
                    parts[part] += load(left + (k + part) * RowsTogether::kDepthStride + first) *
                                   column[k + part];
        store(sums + first, (parts[0] + parts[1]) + (parts[2] + parts[3]));
    }
}

// ------------------------------------------------------------------------------------- one block

// A product on one thread, cut into tiles [rows, panel of columns] and blocks of k.
class BlockProduct {
  public:
    explicit BlockProduct(const GemmArguments& arguments)
        : arguments_(arguments),
          row_tiles_(arguments.left.rows, ceil_divide(arguments.left.rows, kTileRows)),
          tiled_columns_(arguments.right.rows - few_of(arguments.right.rows)),
          column_panels_(ceil_divide(tiled_columns_, kPanelColumns)),
          depth_blocks_(arguments.left.columns,
                        larger(1, ceil_divide(arguments.left.columns, kDepthBlock))) {}

    // As many blocks of k at a time as fit into the memory for the packed right operand.
    void run() {
        const int64_t block_floats = kDepthBlock * larger(1, column_panels_) * kPanelColumns;
        const int64_t blocks_at_once =
            larger(1, smaller(depth_blocks_.count(), kPackedFloats / block_floats));
        packed_right_ = static_cast<float*>(
            right_scratch.reserve(sizeof(float) * blocks_at_once * block_floats));
        for (int64_t block = 0; block < depth_blocks_.count(); block += blocks_at_once) {
            packed_blocks_ = {block, smaller(block + blocks_at_once, depth_blocks_.count())};
            packed_depth_ = {depth_blocks_.begin(packed_blocks_.begin),
                             depth_blocks_.begin(packed_blocks_.end)};
            pack_right();
            for (int64_t tile = 0; tile < row_tiles_.count(); tile += kTilesAtOnce) {
                if (interrupted()) return;
                multiply_rows({tile, smaller(tile + kTilesAtOnce, row_tiles_.count())});
            }
        }
    }

  private:
    static int64_t few_of(int64_t columns) {
        const int64_t rest = columns % kFloatLanes;
        return rest <= kFewColumns ? rest : 0;
    }

    // The part of packed_right_ for a panel, from k on.
    float* packed_panel(int64_t panel, int64_t k) const {
        const int64_t packed = packed_depth_.end - packed_depth_.begin;
        return packed_right_ + (panel * packed + k - packed_depth_.begin) * kPanelColumns;
    }

    void pack_right() const {
        // Where k is not contiguous, a few k of all panels at a time: those are whole rows of it.
        MatrixView right = arguments_.right;
        right.rows = tiled_columns_;
        const int64_t chunk = right.row_stride == 1 ? 16 : packed_depth_.end;
        for (int64_t k = packed_depth_.begin; k < packed_depth_.end; k += chunk)
            for (int64_t panel = 0; panel < column_panels_; ++panel)
                pack_right_panel(right, panel * kPanelColumns, k,
                                 smaller(chunk, packed_depth_.end - k), packed_panel(panel, k));
    }

    void multiply_rows(Range tiles) const {
        for (int64_t block = packed_blocks_.begin; block < packed_blocks_.end; ++block) {
            if (arguments_.left.column_stride == 1)
                multiply_block<RowsApart>(depth_blocks_[block], tiles);
            else
                multiply_block<RowsTogether>(depth_blocks_[block], tiles);
        }
        if (packed_blocks_.end == depth_blocks_.count())
            activate_rows(arguments_, {row_tiles_.begin(tiles.begin), row_tiles_.begin(tiles.end)});
    }

    template <class Layout>
    void multiply_block(Range depth, Range tiles) const {
        alignas(64) float packed_left[kTilesAtOnce * Layout::kSize];
        pack_left<Layout>(depth, tiles, packed_left);
        for (int64_t panel = 0; panel < column_panels_; ++panel)
            for (int64_t tile = tiles.begin; tile < tiles.end; ++tile)
                multiply_tile_at<Layout>(depth, row_tiles_[tile], panel,
                                         packed_left + (tile - tiles.begin) * Layout::kSize);
        for (int64_t column = tiled_columns_; column < arguments_.right.rows; ++column)
            multiply_column_at<Layout>(depth, tiles, column, packed_left);
    }

    template <class Layout>
    void multiply_column_at(Range depth, Range tiles, int64_t column,
                            const float* packed_left) const {
        const MatrixView& right = arguments_.right;
        const float* source =
            right.data + column * right.row_stride + depth.begin * right.column_stride;
        const int64_t count = depth.end - depth.begin;
        alignas(64) float factors[kDepthBlock + kFloatLanes];
        for (int64_t k = 0; k < count; ++k) factors[k] = source[k * right.column_stride];
        store(factors + count, Vector{});
        for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
            const Range rows = row_tiles_[tile];
            alignas(64) float sums[kTileRows + kFloatLanes];
            multiply_column(Layout(), rows.end - rows.begin, count,
                            packed_left + (tile - tiles.begin) * Layout::kSize, factors, sums);
            const TilePointer<float> target = target_at(rows, column);
            const TilePointer<const float> addend = addend_at(depth, target, column);
            for (int64_t r = 0; r < rows.end - rows.begin; ++r)
                target.data[r * target.row_stride] = sums[r] + addend.data[r * addend.row_stride];
        }
    }

    template <class Layout>
    void pack_left(Range depth, Range tiles, float* packed_left) const {
        for (int64_t k = depth.begin; k < depth.end; k += Layout::kCopiedDepth)
            for (int64_t tile = tiles.begin; tile < tiles.end; ++tile)
                pack_left_tile<Layout>(arguments_.left, row_tiles_[tile],
                                       {k, smaller(k + Layout::kCopiedDepth, depth.end)},
                                       packed_left + (tile - tiles.begin) * Layout::kSize +
                                           (k - depth.begin) * Layout::kDepthStride);
    }

    template <class Layout>
    void multiply_tile_at(Range depth, Range rows, int64_t panel, const float* left) const {
        const int64_t column = panel * kPanelColumns;
        const int64_t width = smaller(kPanelColumns, tiled_columns_ - column);
        const TilePointer<float> target = target_at(rows, column);
        const TilePointer<const float> addend = addend_at(depth, target, column);
        const int64_t height = rows.end - rows.begin, count = depth.end - depth.begin;
        const float* right = packed_panel(panel, depth.begin);
        multiply_tile_of<Layout>(height, width, std::make_integer_sequence<int, kTileRows>())(
            count, left, right, addend, target, width);
    }

    TilePointer<float> target_at(Range rows, int64_t column) const {
        const int64_t stride = arguments_.output_row_stride;
        return {sums_of(arguments_) + rows.begin * stride + column, stride};
    }

    TilePointer<const float> addend_at(Range depth, const TilePointer<float>& target,
                                       int64_t column) const {
        static constexpr float kZeros[kPanelColumns] = {};
        if (depth.begin > 0 || arguments_.accumulate) return {target.data, target.row_stride};
        return {arguments_.bias ? arguments_.bias + column : kZeros, 0};
    }

    const GemmArguments& arguments_;
    EvenParts row_tiles_;
    int64_t tiled_columns_;  // the columns but for a few after the last whole vector's
    int64_t column_panels_;
    EvenParts depth_blocks_;
    // The right operand's panels, [panel][k][column], for these blocks of k.
    float* packed_right_;
    Range packed_blocks_, packed_depth_;
};

}  // namespace

void gemm_float32(const GemmArguments& arguments) {
    // Blocks end at any row: tiles are of any height, and 128 rows in whole tiles were 70 and 58.
    const BlockShape shape = {1, kPanelColumns, kMostColumns, kPackingCost};
    BlockGrid(arguments, shape).for_each_block([](const GemmArguments& block) {
        BlockProduct(block).run();
    });
}

}  // namespace aefast::AEFAST_ISA
