// The tokens of a vocabulary by their spelling, and the known words. model/decoding/token_index.py
// makes the arrays.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

// A text in UTF-32. The high bits of a code point say what it is.
using Text = std::u32string;
constexpr char32_t kCodePoint = 0x1fffff, kSpace = 1 << 24, kLetter = 1 << 25, kDigit = 1 << 26;
constexpr char32_t kAlnum = 1 << 27, kMark = 1 << 28;  // kMark: fits after any word

extern "C" {

struct Vocabulary {
  const uint8_t* spellings;        // UTF-8 of all tokens, one after another
  const int64_t* spelling_places;  // where each begins, (size + 1,)
  const char32_t* surfaces;        // text of all tokens; that of bytes and controls is empty
  const int64_t* surface_places;   // (size + 1,)
  const int64_t* sorted;           // tokens that spell something, by their spelling
  const uint8_t* starts_letter;    // masks, (size,)
  const uint8_t* is_byte;
  const uint8_t* is_word;        // a known word, or a Chinese one
  const double* word_end_probs;  // (size,)
  const uint64_t* known_words;   // hashes of the known words, sorted
  int64_t size, sorted_count, known_count;
};

}  // extern "C"

// FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv
inline uint64_t hash_of(std::string_view word) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : word) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
  return hash;
}

// Return true for a known word, in its form (model/words.py); without any, for every word.
inline bool is_known(const uint64_t* known, int64_t count, std::string_view form) {
  return count == 0 || std::binary_search(known, known + count, hash_of(form));
}

inline std::string_view spelling_of(const Vocabulary& vocabulary, int64_t token) {
  const int64_t begin = vocabulary.spelling_places[token];
  return {reinterpret_cast<const char*>(vocabulary.spellings) + begin,
          static_cast<size_t>(vocabulary.spelling_places[token + 1] - begin)};
}

inline std::u32string_view surface_of(const Vocabulary& vocabulary, int64_t token) {
  const int64_t begin = vocabulary.surface_places[token];
  return {vocabulary.surfaces + begin,
          static_cast<size_t>(vocabulary.surface_places[token + 1] - begin)};
}

// Tokens at places of `sorted`.
struct Range {
  int64_t begin, end;
};

// Narrow a range of tokens that begin with `prefix` less its last byte to those with that byte.
inline Range narrow(const Vocabulary& vocabulary, Range range, std::string_view prefix) {
  const size_t place = prefix.size() - 1;
  const auto byte_at = [&](int64_t token) {
    const std::string_view spelling = spelling_of(vocabulary, token);
    return spelling.size() > place ? static_cast<uint8_t>(spelling[place]) : -1;
  };
  const int byte = static_cast<uint8_t>(prefix[place]);
  const int64_t* sorted = vocabulary.sorted;
  const int64_t* first =
      std::lower_bound(sorted + range.begin, sorted + range.end, byte,
                       [&](int64_t token, int value) { return byte_at(token) < value; });
  const int64_t* last =
      std::upper_bound(first, sorted + range.end, byte,
                       [&](int value, int64_t token) { return value < byte_at(token); });
  return {first - sorted, last - sorted};
}

// Call give(token) for each token that `text` begins with. Return those that begin with all of
// `text` and are longer.
template <typename Give>
Range spell_on(const Vocabulary& vocabulary, std::string_view text, Give give) {
  Range range{0, vocabulary.sorted_count};
  for (size_t size = 1; size <= text.size() && range.begin < range.end; ++size) {
    range = narrow(vocabulary, range, text.substr(0, size));
    // The shortest ones come first.
    while (range.begin < range.end &&
           spelling_of(vocabulary, vocabulary.sorted[range.begin]).size() == size) {
      give(vocabulary.sorted[range.begin++]);
    }
  }
  return range;
}
