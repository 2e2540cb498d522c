// Rows in int8 on AVX-512 VNNI or AMX: quantisation, products, and the functions of gates and
// heads. Every row is computed alone, so it does not depend on the others.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

// GCC and clang compile one function for a CPU that the rest of a file does not need.
#define VNNI_FEATURES "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma"
#define VNNI __attribute__((target(VNNI_FEATURES)))
#define AMX __attribute__((target(VNNI_FEATURES ",amx-tile,amx-int8")))

// A stored matrix (inputs, outputs). Weights are packed as (outputs / 16, inputs / 4, 16, 4).
struct Matrix {
  const int8_t* weights;
  const int32_t* corrections;  // (outputs,): -128 times the sum of the weights
  const float* scales;         // (outputs,)
  int64_t inputs, outputs;
};

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kL2Bytes = 1 << 20;
constexpr int64_t kBlock = 512;  // values that are summed in float before they are in double

VNNI inline __m512 all(float value) { return _mm512_set1_ps(value); }

// Return the polynomial of x with coefficients from the highest power, as Horner's rule computes
// it.
template <int count>
VNNI inline __m512 polynomial(__m512 x, const float (&coefficients)[count]) {
  __m512 sum = all(coefficients[0]);
#pragma GCC unroll 16
  for (int n = 1; n < count; ++n) sum = _mm512_fmadd_ps(sum, x, all(coefficients[n]));
  return sum;
}

// The rational approximations of ONNX Runtime's MLAS, with the same operations in the same order.
VNNI inline __m512 tanh_of(__m512 x) {
  static constexpr float kUpper[] = {
      -2.76076847742355e-16f, 2.00018790482477e-13f, -8.60467152213735e-11f, 5.12229709037114e-08f,
      1.48572235717979e-05f,  6.37261928875436e-04f, 4.89352455891786e-03f};
  static constexpr float kLower[] = {1.19825839466702e-06f, 1.18534705686654e-04f,
                                     2.26843463243900e-03f, 4.89352518554385e-03f};
  x = _mm512_min_ps(_mm512_max_ps(x, all(-9.0f)), all(9.0f));
  const __m512 square = _mm512_mul_ps(x, x);
  return _mm512_div_ps(_mm512_mul_ps(polynomial(square, kUpper), x), polynomial(square, kLower));
}

VNNI inline __m512 sigmoid_of(__m512 x) {
  static constexpr float kUpper[] = {4.37031012579801e-11f, 1.15627324459942e-07f,
                                     6.08574864600143e-05f, 8.51377133304701e-03f,
                                     2.48287947061529e-01f};
  static constexpr float kLower[] = {6.10247389755681e-13f, 5.76102136993427e-09f,
                                     6.29106785017040e-06f, 1.70198817374094e-03f,
                                     1.16817656904453e-01f, 9.93151921023180e-01f};
  x = _mm512_min_ps(_mm512_max_ps(x, all(-18.0f)), all(18.0f));
  const __m512 square = _mm512_mul_ps(x, x);
  const __m512 upper = _mm512_mul_ps(polynomial(square, kUpper), x);
  const __m512 value = _mm512_add_ps(_mm512_div_ps(upper, polynomial(square, kLower)), all(0.5f));
  return _mm512_min_ps(_mm512_max_ps(value, all(0.0f)), all(1.0f));
}

// Return 2 to the power of x < 1; 0 if that is too small for a normal number.
VNNI inline __m512 exp2_of(__m512 x) {
  static constexpr float kSeries[] = {2.1702255534e-4f,
                                      1.2439688007e-3f,
                                      9.6788409497e-3f,
                                      5.5483342026e-2f,
                                      2.4022983626e-1f,
                                      6.9314698384e-1f,
                                      1.0f};
  const __mmask16 is_normal = _mm512_cmp_ps_mask(x, all(-126.0f), _CMP_GT_OQ);
  const __m512 fraction = _mm512_reduce_ps(x, 1);  // x - floor(x)
  return _mm512_maskz_scalef_ps(is_normal, polynomial(fraction, kSeries), x);
}

// Quantise a row to uint8 around 128; return its scale.
VNNI float quantise(const float* row, int64_t size, uint8_t* quantised) {
  __m512 largest = _mm512_setzero_ps();
  for (int64_t n = 0; n < size; n += kLanes) {
    largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_loadu_ps(row + n)));
  }
  const float scale = std::max(_mm512_reduce_max_ps(largest), 1e-30f) / 127.0f;
  for (int64_t n = 0; n < size; n += kLanes) {
    const __m512 divided = _mm512_div_ps(_mm512_loadu_ps(row + n), all(scale));
    const __m512i shifted = _mm512_add_epi32(_mm512_cvtps_epi32(divided), _mm512_set1_epi32(128));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(quantised + n), _mm512_cvtusepi32_epi8(shifted));
  }
  return scale;
}

// Quantised rows, back to back, and their scales.
struct Rows {
  uint8_t* values;
  float* scales;
  int64_t count;
  bool use_amx;
};

VNNI void quantise_rows(const float* rows, int64_t size, const Rows& quantised) {
  for (int64_t n = 0; n < quantised.count; ++n) {
    quantised.scales[n] = quantise(rows + n * size, size, quantised.values + n * size);
  }
}

// Fetch a cache line of weights ahead of its use. Beyond the last ones nothing happens.
VNNI inline void fetch(const int8_t* weights) {
  _mm_prefetch(reinterpret_cast<const char*>(weights), _MM_HINT_T0);
}

// Write 16 outputs of a row: scale the sums of products, and add those at `added`.
VNNI inline void write(__m512i sums, __m512i corrections, float row_scale, __m512 scales,
                       const float* added, float* place) {
  const __m512 exact = _mm512_cvtepi32_ps(_mm512_add_epi32(sums, corrections));
  const __m512 product = _mm512_mul_ps(_mm512_mul_ps(exact, all(row_scale)), scales);
  _mm512_storeu_ps(place, _mm512_add_ps(product, _mm512_loadu_ps(added)));
}

// Multiply `rows` rows by `tiles` tiles of 16 outputs each. Add `bias`, or without one what `out`
// has.
template <int rows, int tiles>
VNNI inline void multiply_block(const Matrix& matrix, const uint8_t* values, const float* scales,
                                int64_t tile, const float* bias, float* out) {
  const int64_t quads = matrix.inputs / 4;
  const int8_t* weights = matrix.weights + tile * quads * 64;
  __m512i sums[rows][tiles];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int t = 0; t < tiles; ++t) sums[r][t] = _mm512_setzero_si512();
  }
  for (int64_t quad = 0; quad < quads; ++quad) {
    __m512i own[tiles];
#pragma GCC unroll 16
    for (int t = 0; t < tiles; ++t) {
      const int8_t* place = weights + (t * quads + quad) * 64;
      own[t] = _mm512_loadu_si512(place);
      if (rows < 4) fetch(place + 16 * 64);
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      int32_t four;
      std::memcpy(&four, values + r * matrix.inputs + 4 * quad, sizeof four);
      const __m512i spread = _mm512_set1_epi32(four);
#pragma GCC unroll 16
      for (int t = 0; t < tiles; ++t) {
        __m512i sum = _mm512_dpbusd_epi32(sums[r][t], spread, own[t]);
        __asm__("" : "+v"(sum));  // else GCC copies every sum to another register and back
        sums[r][t] = sum;
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < tiles; ++t) {
    const int64_t first = (tile + t) * kLanes;
    const __m512i correction = _mm512_loadu_si512(matrix.corrections + first);
    const __m512 scale = _mm512_loadu_ps(matrix.scales + first);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      float* place = out + r * matrix.outputs + first;
      write(sums[r][t], correction, scales[r], scale, bias ? bias + first : place, place);
    }
  }
}

template <int tiles>
VNNI void multiply_tiles(const Matrix& matrix, const Rows& rows, int64_t tile, const float* bias,
                         float* out) {
  int64_t row = 0;
  const auto step = [&](int64_t count) VNNI {
    const uint8_t* values = rows.values + row * matrix.inputs;
    const float* scales = rows.scales + row;
    float* place = out + row * matrix.outputs;
    if (count == 4) multiply_block<4, tiles>(matrix, values, scales, tile, bias, place);
    if (count == 2) multiply_block<2, tiles>(matrix, values, scales, tile, bias, place);
    if (count == 1) multiply_block<1, tiles>(matrix, values, scales, tile, bias, place);
    row += count;
  };
  while (row + 4 <= rows.count) step(4);
  if (row + 2 <= rows.count) step(2);
  if (row < rows.count) step(1);
}

// Do what multiply() does, with the same sums. One sum at a time: with three tiles in use, loads
// and products overlap even if another thread of the core uses AMX, too.
AMX void multiply_amx(const Matrix& matrix, const Rows& rows, const float* bias, float* out) {
  // Blocks of rows are of one height; the last one repeats rows of the block before it.
  const int64_t blocks = (rows.count + kLanes - 1) / kLanes;
  const int64_t height = (rows.count + blocks - 1) / blocks;
  const int64_t quads = matrix.inputs / 4;
  int64_t depth = 16;  // quads of a tile
  while (quads % depth) --depth;
  // Bytes of a row at 16 + 2n, and rows at 48 + n, of tile n: sums, rows, weights.
  alignas(64) uint8_t shapes[64] = {1};
  shapes[16] = shapes[20] = 64;
  shapes[18] = static_cast<uint8_t>(4 * depth);
  shapes[48] = shapes[49] = static_cast<uint8_t>(height);
  shapes[50] = static_cast<uint8_t>(depth);
  // GCC does not know that the next instructions read memory.
  __asm__ volatile("" : : "r"(shapes) : "memory");
  _tile_loadconfig(shapes);
  const int8_t* weights = matrix.weights;
  for (int64_t first = 0; first < matrix.outputs; first += kLanes, weights += quads * 64) {
    const __m512i correction = _mm512_loadu_si512(matrix.corrections + first);
    const __m512 scale = _mm512_loadu_ps(matrix.scales + first);
    for (int64_t row = 0; row < rows.count;) {
      const int64_t begin = std::min(row, rows.count - height);
      const uint8_t* values = rows.values + begin * matrix.inputs;
      alignas(64) int32_t sums[16 * kLanes];
      _tile_zero(0);
      for (int64_t quad = 0; quad < quads; quad += depth) {
        _tile_loadd(1, values + 4 * quad, matrix.inputs);
        _tile_loadd(2, weights + 64 * quad, 64);
        _tile_dpbusd(0, 1, 2);
        for (int64_t n = quad; row == 0 && n < quad + depth; ++n) fetch(weights + (quads + n) * 64);
      }
      _tile_stored(0, sums, 64);
      for (; row < begin + height; ++row) {
        float* place = out + row * matrix.outputs + first;
        const __m512i own = _mm512_load_si512(sums + (row - begin) * kLanes);
        write(own, correction, rows.scales[row], scale, bias ? bias + first : place, place);
      }
    }
  }
  _tile_release();
}

// Multiply rows (count, inputs) by a matrix; add `bias`, or without one what `out` (count, outputs)
// has.
VNNI void multiply(const Matrix& matrix, const Rows& rows, const float* bias, float* out) {
  if (rows.use_amx && rows.count > 2) {
    // A matrix of the L2 cache is read for every 32 rows, so that their outputs stay near.
    const int64_t most = matrix.inputs * matrix.outputs < kL2Bytes ? 32 : rows.count;
    for (int64_t row = 0; row < rows.count; row += most) {
      const int64_t count = std::min(rows.count - row, most);
      const Rows part = {rows.values + row * matrix.inputs, rows.scales + row, count, true};
      multiply_amx(matrix, part, bias, out + row * matrix.outputs);
    }
    return;
  }
  const int64_t tiles = matrix.outputs / kLanes;
  int64_t tile = 0;
  for (; tile + 4 <= tiles; tile += 4) multiply_tiles<4>(matrix, rows, tile, bias, out);
  for (; tile < tiles; ++tile) multiply_tiles<1>(matrix, rows, tile, bias, out);
}

}  // namespace
