// Passes over a row of scores of all tokens. Ownership: the caller owns all memory, and keeps it
// until a call returns. Nothing is allocated here. Calls on different rows may overlap.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>

namespace {

constexpr int64_t kColumns = 256;  // a row is read as lines of so many items
constexpr int64_t kStretch = 64;   // items that are compared together

// Return a value that at least `count` items reach: the largest of each column are so many.
float reached_by(const float* row, int64_t size, int64_t count, float above) {
  if (count > kColumns || size < kColumns) return above;
  float largest[kColumns];
  std::copy_n(row, kColumns, largest);
  for (int64_t begin = kColumns; begin < size; begin += kColumns) {
    const float* line = row + begin;
    const int64_t end = std::min(kColumns, size - begin);
    for (int64_t n = 0; n < end; ++n) {
      largest[n] = line[n] > largest[n] ? line[n] : largest[n];
    }
  }
  std::nth_element(largest, largest + count - 1, largest + kColumns, std::greater<float>());
  return std::max(above, largest[count - 1]);
}

}  // namespace

extern "C" {

// Write the tokens of the `count` largest items above `above` to `tokens` (2 count + 64,): falling,
// ties by token. Return how many there are.
int64_t lacuna_row_best(const float* row, int64_t size, int64_t count, float above,
                        int64_t* tokens) {
  const auto is_better = [row](int64_t one, int64_t other) {
    return row[one] > row[other] || (row[one] == row[other] && one < other);
  };
  float least = reached_by(row, size, count, above);
  int64_t found = 0;
  for (int64_t begin = 0; begin < size; begin += kStretch) {
    const int64_t end = std::min(size, begin + kStretch);
    int32_t exceeding = 0;
    for (int64_t n = begin; n < end; ++n) exceeding |= row[n] >= least;
    if (!exceeding) continue;
    for (int64_t n = begin; n < end; ++n) {
      if (row[n] >= least && row[n] > above) tokens[found++] = n;
    }
    if (found < 2 * count) continue;
    std::nth_element(tokens, tokens + count - 1, tokens + found, is_better);
    found = count;
    least = row[tokens[count - 1]];
  }
  std::sort(tokens, tokens + found, is_better);
  return std::min(found, count);
}

// Multiply the probabilities of a row of logarithms by 1 + raises[n] at each of `count` tokens, and
// all by what makes `kept` of their sum.
void lacuna_row_raise(float* row, int64_t size, int64_t count, const int64_t* tokens,
                      const float* raises, const float* log_raises, double kept) {
  double added = 0;
  for (int64_t n = 0; n < count; ++n) added += std::exp(row[tokens[n]]) * raises[n];
  const auto change = static_cast<float>(std::log(kept) - std::log1p(added));
  for (int64_t token = 0; token < size; ++token) row[token] += change;
  for (int64_t n = 0; n < count; ++n) row[tokens[n]] += log_raises[n];
}

}  // extern "C"
