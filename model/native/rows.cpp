// Best tokens of a row of scores. Ownership: the caller owns all memory, and keeps it
// until a call returns. Nothing is allocated here. Calls on different rows may overlap.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>

namespace {

constexpr int64_t kLanes = 64, kBlocks = 16;

// A row in blocks of lines of kLanes items. A group is one lane of a block; the last items of the
// row, less than a line, are in none.
struct Groups {
  const float* row;
  int64_t lines, block_lines, blocks;
  float largest[kBlocks * kLanes];  // of each group

  Groups(const float* scores, int64_t size, int64_t wanted) : row(scores), lines(size / kLanes) {
    blocks = std::clamp<int64_t>(wanted / 8, 2, kBlocks);
    block_lines = (lines + blocks - 1) / blocks;
    for (int64_t block = 0; block < blocks; ++block) {
      float* most = largest + block * kLanes;
      std::fill_n(most, kLanes, std::numeric_limits<float>::lowest());
      for (int64_t line = begin(block); line < begin(block + 1); ++line) {
        const float* items = row + line * kLanes;
        for (int64_t n = 0; n < kLanes; ++n) most[n] = items[n] > most[n] ? items[n] : most[n];
      }
    }
  }
  int64_t begin(int64_t block) const { return std::min(lines, block * block_lines); }

  // Return a value that at least `count` items reach, if so many are finite.
  float reached_by(int64_t count) const {
    if (count > blocks * kLanes) return std::numeric_limits<float>::lowest();
    float sorted[kBlocks * kLanes];
    std::copy_n(largest, blocks * kLanes, sorted);
    std::nth_element(sorted, sorted + count - 1, sorted + blocks * kLanes, std::greater<float>());
    return sorted[count - 1];
  }
};

}  // namespace

extern "C" {

// Write the tokens of the `count` largest finite items to `tokens` (2 count,): falling, ties by
// token. Return how many there are.
int64_t lacuna_row_best(const float* row, int64_t size, int64_t count, int64_t* tokens) {
  const auto is_better = [row](int64_t one, int64_t other) {
    return row[one] > row[other] || (row[one] == row[other] && one < other);
  };
  const Groups groups(row, size, count);
  float least = groups.reached_by(count);
  int64_t found = 0;
  const auto add = [&](int64_t token) {
    if (!(row[token] >= least)) return;
    tokens[found++] = token;
    if (found < 2 * count) return;
    std::nth_element(tokens, tokens + count - 1, tokens + found, is_better);
    found = count;
    least = row[tokens[count - 1]];
  };
  for (int64_t group = 0; group < groups.blocks * kLanes; ++group) {
    if (groups.largest[group] < least) continue;
    const int64_t block = group / kLanes, lane = group % kLanes;
    for (int64_t line = groups.begin(block); line < groups.begin(block + 1); ++line) {
      add(line * kLanes + lane);
    }
  }
  for (int64_t token = groups.lines * kLanes; token < size; ++token) add(token);
  std::sort(tokens, tokens + found, is_better);
  return std::min(found, count);
}

}  // extern "C"
