// Towers and heads of an LSTM network in int8, for CPUs with AVX-512 VNNI; with AMX if they have
// it. model/onnx_graphs.py defines them, node by node; states are bit for bit those of the graphs
// on ONNX Runtime.
//
// Ownership: the caller owns all memory, and keeps it until a call returns. Nothing is allocated
// here. Calls on different workspaces may overlap.

#include <cstdint>

#if defined(__x86_64__)

#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "int8.hpp"

extern "C" {

struct Layer {
  Matrix input, recurrent;
  const float* bias;  // (4H,), gates in the order of the graphs: enter, forget, leave, new
};

struct Tower {
  const Layer* layers;
  int64_t layer_count;
};

struct Network {
  Tower towers[2];     // forward, backward
  Matrix embedding;    // (E, V)
  Matrix features[2];  // (H, E): next, previous
  Matrix gap_left, gap_right, gap_output;
  const float* feature_biases[2];
  const float *output_bias, *gap_bias, *first_gap_bias;  // (V,)
  const float *unknown_right, *gap_output_bias;          // (E,)
  const float *gap_positions, *gap_kinds;                // rows of the width of gap_left
  int64_t hidden_size, embedding_size, vocabulary_size, position_count, kind_count;
  int64_t use_amx;  // 1 if lacuna_network_supported() returns 2, else 0
};

// The gap head's inputs apart from the forward outputs.
struct GapInputs {
  const float* backward;       // (count, H)
  const uint8_t* right_known;  // (count,)
  const int64_t* positions;    // (count,)
  const int64_t* kinds;        // (count,)
};

}  // extern "C"

namespace {

// Memory of a call, handed out from its begin. With no memory it only counts.
class Workspace {
 public:
  explicit Workspace(uint8_t* memory) : memory_(memory) {}
  template <typename Item>
  Item* take(int64_t count) {
    uint8_t* place = memory_ ? memory_ + used_ : nullptr;
    used_ += (count * static_cast<int64_t>(sizeof(Item)) + 63) / 64 * 64;
    return reinterpret_cast<Item*>(place);
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* memory_;
  int64_t used_ = 0;
};

// Look up a token's row of the packed embedding.
float embed(const Matrix& embedding, int64_t token, uint8_t* values) {
  const int64_t quads = embedding.inputs / 4;
  const int8_t* first = embedding.weights + token / kLanes * quads * 64 + token % kLanes * 4;
  for (int64_t quad = 0; quad < quads; ++quad) {
    uint32_t four;
    std::memcpy(&four, first + quad * 64, sizeof four);
    four ^= 0x80808080;  // adds 128 to each
    std::memcpy(values + quad * 4, &four, sizeof four);
  }
  return embedding.scales[token];
}

// Advance an LSTM cell by the gates (4H,); write h also to `output`.
VNNI void step_cell(const float* gates, int64_t size, float* h, float* c, float* output) {
  for (int64_t n = 0; n < size; n += kLanes) {
    const __m512 enter = sigmoid_of(_mm512_loadu_ps(gates + n));
    const __m512 forget = sigmoid_of(_mm512_loadu_ps(gates + size + n));
    const __m512 leave = sigmoid_of(_mm512_loadu_ps(gates + 2 * size + n));
    const __m512 proposed = tanh_of(_mm512_loadu_ps(gates + 3 * size + n));
    const __m512 kept = _mm512_mul_ps(forget, _mm512_loadu_ps(c + n));
    const __m512 memory = _mm512_add_ps(kept, _mm512_mul_ps(enter, proposed));
    const __m512 shown = _mm512_mul_ps(leave, tanh_of(memory));
    _mm512_storeu_ps(c + n, memory);
    _mm512_storeu_ps(h + n, shown);
    _mm512_storeu_ps(output + n, shown);
  }
}

// Replace logits by log-probabilities, or by probabilities.
VNNI void normalise(float* row, int64_t size, bool takes_logs) {
  __m512 largest[4];  // one would wait for its last maximum
  for (auto& each : largest) each = _mm512_loadu_ps(row);
  for (int64_t n = 0; n < size; n += 4 * kLanes) {
    for (int64_t k = 0; k < 4; ++k) {
      const float* place = row + std::min(n + k * kLanes, size - kLanes);
      largest[k] = _mm512_max_ps(largest[k], _mm512_loadu_ps(place));
    }
  }
  for (const auto& each : largest) largest[0] = _mm512_max_ps(largest[0], each);
  const __m512 top = all(_mm512_reduce_max_ps(largest[0]));
  const __m512 log2_e = all(1.44269504f), shift = _mm512_mul_ps(top, log2_e);
  double total = 0;
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t n = begin; n < std::min(size, begin + kBlock); n += kLanes) {
      const __m512 value = exp2_of(_mm512_fmsub_ps(_mm512_loadu_ps(row + n), log2_e, shift));
      if (!takes_logs) _mm512_storeu_ps(row + n, value);
      sum = _mm512_add_ps(sum, value);
    }
    total += _mm512_reduce_add_ps(sum);
  }
  const __m512 log_total = all(static_cast<float>(std::log(total)));
  const __m512 factor = all(static_cast<float>(1 / total));
  for (int64_t n = 0; n < size; n += kLanes) {
    const __m512 value = _mm512_loadu_ps(row + n);
    const __m512 log_prob = _mm512_sub_ps(_mm512_sub_ps(value, top), log_total);
    _mm512_storeu_ps(row + n, takes_logs ? log_prob : _mm512_mul_ps(value, factor));
  }
}

// Tokens of a batch, by step and then by row: those of step t are at starts[t] to starts[t + 1].
struct TowerSpace {
  TowerSpace(Workspace* space, const Network& network, int64_t count, int64_t steps)
      : starts(space->take<int64_t>(steps + 1)), rows(space->take<int64_t>(count * steps)) {
    const int64_t tokens = count * steps, size = network.hidden_size;
    gates = space->take<float>(tokens * 4 * size);
    outputs = space->take<float>(tokens * size);
    quantised = {space->take<uint8_t>(tokens * std::max(size, network.embedding_size)),
                 space->take<float>(tokens), 0, network.use_amx > 0};
    recurrent = {space->take<uint8_t>(count * size), space->take<float>(count), 0,
                 network.use_amx > 0};
  }
  int64_t *starts, *rows;
  float *gates, *outputs;
  Rows quantised, recurrent;
};

struct HeadSpace {
  HeadSpace(Workspace* space, const Network& network, int64_t count) {
    const int64_t size = network.embedding_size, gap = network.gap_left.outputs;
    left = space->take<float>(count * size);
    right = space->take<float>(count * size);
    hidden = space->take<float>(count * gap);
    gated = space->take<float>(count * gap / 2);
    quantised = {space->take<uint8_t>(count * std::max({network.hidden_size, size, gap / 2})),
                 space->take<float>(count), count, network.use_amx > 0};
  }
  float *left, *right, *hidden, *gated;
  Rows quantised;
};

VNNI void product(const Matrix& matrix, const float* rows, const Rows& quantised, const float* bias,
                  float* out) {
  quantise_rows(rows, matrix.inputs, quantised);
  multiply(matrix, quantised, bias, out);
}

// Replace the features of the left side (count, E) in `space` by the gap head's query.
VNNI void query_gap(const Network& network, const GapInputs& inputs, HeadSpace* space) {
  const int64_t count = space->quantised.count, size = network.embedding_size;
  const int64_t width = network.gap_left.outputs, half = width / 2;
  product(network.features[1], inputs.backward, space->quantised, network.feature_biases[1],
          space->right);
  for (int64_t n = 0; n < count; ++n) {
    if (!inputs.right_known[n]) std::copy_n(network.unknown_right, size, space->right + n * size);
  }
  std::fill_n(space->hidden, count * width, 0.0f);
  product(network.gap_left, space->left, space->quantised, nullptr, space->hidden);
  product(network.gap_right, space->right, space->quantised, nullptr, space->hidden);
  for (int64_t n = 0; n < count; ++n) {
    const auto within = [](int64_t value, int64_t end) {
      return std::clamp<int64_t>(value, 0, end - 1);
    };
    const int64_t place = within(inputs.positions[n], network.position_count);
    const float* position = network.gap_positions + place * width;
    const float* kind = network.gap_kinds + within(inputs.kinds[n], network.kind_count) * width;
    float* hidden = space->hidden + n * width;
    for (int64_t k = 0; k < width; ++k) hidden[k] += position[k] + kind[k];
    for (int64_t k = 0; k < half; k += kLanes) {
      const __m512 gate = sigmoid_of(_mm512_loadu_ps(hidden + half + k));
      const __m512 gated = _mm512_mul_ps(_mm512_loadu_ps(hidden + k), gate);
      _mm512_storeu_ps(space->gated + n * half + k, gated);
    }
  }
  float* inner = space->hidden;  // no longer needed
  product(network.gap_output, space->gated, space->quantised, network.gap_output_bias, inner);
  for (int64_t n = 0; n < count * size; ++n) {
    space->left[n] = inner[n] + (space->left[n] + space->right[n]);
  }
}

}  // namespace

extern "C" {

// Return 1 if the CPU and the system have what VNNI names, 2 if also AMX, which Linux then allows
// this process. Zig's __builtin_cpu_supports does not know.
int32_t lacuna_network_supported() {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 0;
  constexpr unsigned kFma = 1U << 12, kSavedStates = 1U << 27;
  if ((ecx & (kFma | kSavedStates)) != (kFma | kSavedStates)) return 0;
  unsigned saved, unused;  // states that the system saves: those of AVX-512 are bits 1, 2, 5, 6, 7
  __asm__("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0));
  if ((saved & 0xe6) != 0xe6 || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return 0;
  constexpr unsigned kF = 1U << 16, kDq = 1U << 17, kBw = 1U << 30, kVl = 1U << 31;
  constexpr unsigned kAll = kF | kDq | kBw | kVl, kVnni = 1U << 11;
  if ((ebx & kAll) != kAll || !(ecx & kVnni)) return 0;
#ifdef __linux__
  constexpr unsigned kTiles = 3U << 24, kSavedTiles = 3U << 17;  // amx-tile and amx-int8
  constexpr int64_t kRequest = 0x1023, kTileData = 18;           // ARCH_REQ_XCOMP_PERM
  if ((edx & kTiles) == kTiles && (saved & kSavedTiles) == kSavedTiles &&
      syscall(SYS_arch_prctl, kRequest, kTileData) == 0) {
    return 2;
  }
#endif
  return 1;
}

int64_t lacuna_tower_bytes(const Network* network, int64_t count, int64_t steps) {
  Workspace space(nullptr);
  TowerSpace(&space, *network, count, steps);
  return space.used();
}

int64_t lacuna_head_bytes(const Network* network, int64_t count) {
  Workspace space(nullptr);
  HeadSpace(&space, *network, count);
  return space.used();
}

// Read tokens (count, steps), of each row the first `lengths`, from `states` (count, S), in place.
// Write the top layer's h after each token that is read to `outputs` (count, steps, H). Return 0;
// or 1, and do nothing, if a token is not in the vocabulary or a length exceeds the steps.
VNNI int32_t lacuna_run_tower(const Network* network, int64_t tower, int64_t count, int64_t steps,
                              float* states, const int64_t* tokens, const int64_t* lengths,
                              float* outputs, uint8_t* workspace) {
  Workspace memory(workspace);
  TowerSpace space(&memory, *network, count, steps);
  const Tower& own = network->towers[tower];
  const int64_t size = network->hidden_size, state_size = own.layer_count * 2 * size;
  int64_t total = 0;
  if (std::any_of(lengths, lengths + count, [&](int64_t each) { return each > steps; })) return 1;
  for (int64_t step = 0; step < steps; ++step) {
    space.starts[step] = total;
    for (int64_t row = 0; row < count; ++row) {
      if (step >= lengths[row]) continue;
      uint8_t* values = space.quantised.values + total * network->embedding_size;
      const int64_t token = tokens[row * steps + step];
      if (token < 0 || token >= network->vocabulary_size) return 1;
      space.quantised.scales[total] = embed(network->embedding, token, values);
      space.rows[total++] = row;
    }
  }
  space.starts[steps] = total;
  space.quantised.count = total;
  for (int64_t number = 0; number < own.layer_count; ++number) {
    const Layer& layer = own.layers[number];
    if (number > 0) quantise_rows(space.outputs, size, space.quantised);
    multiply(layer.input, space.quantised, layer.bias, space.gates);
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t first = space.starts[step];
      const int64_t* rows = space.rows + first;
      space.recurrent.count = space.starts[step + 1] - first;
      float* gates = space.gates + first * 4 * size;
      for (int64_t n = 0; n < space.recurrent.count; ++n) {
        const float* h = states + rows[n] * state_size + number * 2 * size;
        space.recurrent.scales[n] = quantise(h, size, space.recurrent.values + n * size);
      }
      multiply(layer.recurrent, space.recurrent, nullptr, gates);
      for (int64_t n = 0; n < space.recurrent.count; ++n) {
        float* h = states + rows[n] * state_size + number * 2 * size;
        const bool is_top = number + 1 == own.layer_count;
        float* output =
            is_top ? outputs + (rows[n] * steps + step) * size : space.outputs + (first + n) * size;
        step_cell(gates + n * 4 * size, size, h, h + size, output);
      }
    }
  }
  return 0;
}

// Score `outputs` (count, H): write probabilities (head 0, next), or log-probabilities (1,
// previous; 2, gap, with `gap`) to `rows` (count, V).
VNNI void lacuna_score(const Network* network, int64_t head, int64_t count, const float* outputs,
                       const GapInputs* gap, float* rows, uint8_t* workspace) {
  Workspace memory(workspace);
  HeadSpace space(&memory, *network, count);
  const int64_t feature = head == 1 ? 1 : 0;
  product(network->features[feature], outputs, space.quantised, network->feature_biases[feature],
          space.left);
  if (gap) query_gap(*network, *gap, &space);
  const int64_t size = network->vocabulary_size;
  for (int64_t n = 0; gap && n < count; ++n) {
    const bool is_first = gap->positions[n] == 0;
    std::copy_n(is_first ? network->first_gap_bias : network->gap_bias, size, rows + n * size);
  }
  const float* bias = gap ? nullptr : network->output_bias;
  product(network->embedding, space.left, space.quantised, bias, rows);
  for (int64_t n = 0; n < count; ++n) normalise(rows + n * size, size, head != 0);
}

}  // extern "C"

#else  // another CPU: only the first function may be called

extern "C" {
int32_t lacuna_network_supported() { return 0; }
int64_t lacuna_tower_bytes() { return 0; }
int64_t lacuna_head_bytes() { return 0; }
void lacuna_run_tower() {}
void lacuna_score() {}
}

#endif
