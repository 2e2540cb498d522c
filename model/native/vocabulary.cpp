// Known words for Python; see vocabulary.hpp.

#include "vocabulary.hpp"

extern "C" {

// Write the hash of each of the words in `lines`, which all end in a line end.
void lacuna_hash_words(const char* lines, int64_t size, uint64_t* hashes) {
  std::string_view left(lines, static_cast<size_t>(size));
  while (!left.empty()) {
    const size_t end = left.find('\n');
    *hashes++ = hash_of(left.substr(0, end));
    left.remove_prefix(end + 1);
  }
}

int64_t lacuna_is_known(const uint64_t* known, int64_t count, const char* form, int64_t size) {
  return is_known(known, count, {form, static_cast<size_t>(size)});
}

}  // extern "C"
