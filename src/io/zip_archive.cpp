#include "io/zip_archive.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <set>
#include <unistd.h>

#include <zip.h>

#include "core/check.hpp"
#include "io/text.hpp"

namespace curvature::detail {
namespace {

class EntrySource final : public ByteSource {
 public:
  EntrySource(std::string name, zip_file_t* file, uint64_t size)
      : ByteSource(std::move(name)), file_(file), remaining_(size) {}
  ~EntrySource() override { zip_fclose(file_); }

  uint64_t remaining() const noexcept override { return remaining_; }

 private:
  // libzip compares the checksum when the end is read.
  size_t read_some(void* out, size_t size) override {
    const zip_int64_t count = zip_fread(file_, out, size);
    CURVATURE_CHECK(count >= 0, FileError, "{}: damaged: {}", name(),
                    zip_error_strerror(zip_file_get_error(file_)));
    CURVATURE_CHECK(static_cast<uint64_t>(count) <= remaining_, FileError,
                    "{}: holds more bytes than the archive says", name());
    remaining_ -= static_cast<uint64_t>(count);
    return static_cast<size_t>(count);
  }

  zip_file_t* file_;
  uint64_t remaining_;
};

zip* open_archive(const std::string& name, int descriptor) {
  int code = 0;
  zip* archive = zip_fdopen(descriptor, 0, &code);
  if (archive != nullptr) return archive;
  ::close(descriptor);
  zip_error_t error;
  zip_error_init_with_code(&error, code);
  const std::string reason = zip_error_strerror(&error);
  zip_error_fini(&error);
  throw FileError(fmt::format("{}: not a sound zip file: {}; it may be truncated", name, reason));
}

std::vector<std::string> entry_names(const std::string& name, zip* archive) {
  const zip_int64_t count = zip_get_num_entries(archive, 0);
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (zip_int64_t i = 0; i < count; ++i) {
    const char* entry = zip_get_name(archive, static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
    CURVATURE_CHECK(entry != nullptr, FileError, "{}: entry {} has no name", name, i);
    CURVATURE_CHECK(seen.insert(entry).second, FileError, "{}: has two entries called '{}'", name,
                    printable(entry));
    names.emplace_back(entry);
  }
  return names;
}

}  // namespace

void ZipArchive::Close::operator()(zip* archive) const noexcept { zip_discard(archive); }

ZipArchive::ZipArchive(const std::filesystem::path& path) : name_(printable(path.native())) {
  const FileSource file(path);
  const int descriptor = ::fcntl(file.descriptor(), F_DUPFD_CLOEXEC, 0);
  CURVATURE_CHECK(descriptor >= 0, FileError, "{}: cannot be opened: {}", name_,
                  system_message(errno));
  archive_.reset(open_archive(name_, descriptor));
  entries_ = entry_names(name_, archive_.get());
}

std::optional<size_t> ZipArchive::find(std::string_view entry) const {
  const auto found = std::find(entries_.begin(), entries_.end(), entry);
  if (found == entries_.end()) return std::nullopt;
  return static_cast<size_t>(found - entries_.begin());
}

std::unique_ptr<ByteSource> ZipArchive::open(size_t entry) const {
  const std::string who = fmt::format("{}: entry '{}'", name_, printable(entries_.at(entry)));
  zip_stat_t facts;
  zip_stat_init(&facts);
  constexpr zip_uint64_t kNeeded =
      ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
  CURVATURE_CHECK(
      zip_stat_index(archive_.get(), entry, 0, &facts) == 0 && (facts.valid & kNeeded) == kNeeded,
      FileError, "{}: damaged: no sizes are given", who);
  CURVATURE_CHECK(facts.encryption_method == ZIP_EM_NONE, FileError, "{}: is encrypted", who);
  const bool stored = facts.comp_method == ZIP_CM_STORE;
  CURVATURE_CHECK(stored || facts.comp_method == ZIP_CM_DEFLATE, FileError,
                  "{}: unknown compression method {}; expected stored or deflated", who,
                  facts.comp_method);
  const bool plausible =
      stored ? facts.size == facts.comp_size : facts.size / kLargestDeflateRatio <= facts.comp_size;
  CURVATURE_CHECK(plausible, FileError, "{}: claims {} bytes, which {} stored bytes cannot hold",
                  who, facts.size, facts.comp_size);
  zip_file_t* file = zip_fopen_index(archive_.get(), entry, 0);
  CURVATURE_CHECK(file != nullptr, FileError, "{}: damaged: {}", who,
                  zip_error_strerror(zip_get_error(archive_.get())));
  return std::make_unique<EntrySource>(who, file, facts.size);
}

namespace {

/// What goes wrong while a file is made in memory is a lack of memory.
void check_made(bool success, zip_error_t* error) {
  CURVATURE_CHECK(success, FileError, "zip: the archive cannot be made in memory: {}",
                  zip_error_strerror(error));
}

}  // namespace

void ZipWriter::Close::operator()(zip* archive) const noexcept { zip_discard(archive); }
void ZipWriter::Free::operator()(zip_source* source) const noexcept { zip_source_free(source); }

ZipWriter::ZipWriter() {
  zip_error_t error;
  zip_error_init(&error);
  buffer_.reset(zip_source_buffer_create(nullptr, 0, 0, &error));
  check_made(buffer_ != nullptr, &error);
  archive_.reset(zip_open_from_source(buffer_.get(), ZIP_TRUNCATE, &error));
  check_made(archive_ != nullptr, &error);
  zip_source_keep(buffer_.get());  // the archive owns one reference, this object the other
}

void ZipWriter::add(const std::string& entry, const std::vector<std::string_view>& pieces) {
  std::vector<zip_buffer_fragment_t> fragments;
  for (const std::string_view piece : pieces) {
    if (piece.empty()) continue;
    // libzip reads only, but its type does not say so.
    auto* data = reinterpret_cast<zip_uint8_t*>(const_cast<char*>(piece.data()));
    fragments.push_back({data, piece.size()});
  }
  zip_t* archive = archive_.get();
  zip_source_t* source =
      zip_source_buffer_fragment(archive, fragments.data(), fragments.size(), /*freep=*/0);
  check_made(source != nullptr, zip_get_error(archive));
  const zip_int64_t index = zip_file_add(archive, entry.c_str(), source, ZIP_FL_ENC_UTF_8);
  if (index < 0) zip_source_free(source);
  CURVATURE_CHECK(index >= 0 || zip_error_code_zip(zip_get_error(archive)) != ZIP_ER_EXISTS,
                  OptionError, "zip: there are two entries called '{}'", printable(entry));
  check_made(index >= 0, zip_get_error(archive));
  // Not compressed, and dated at the beginning of the format's time, so that bytes are the same.
  constexpr zip_uint16_t kFirstDay = (1 << 5) | 1;
  const auto number = static_cast<zip_uint64_t>(index);
  check_made(zip_set_file_compression(archive, number, ZIP_CM_STORE, 0) == 0 &&
                 zip_file_set_dostime(archive, number, 0, kFirstDay, 0) == 0,
             zip_get_error(archive));
}

std::string ZipWriter::finish() {
  check_made(zip_close(archive_.get()) == 0, zip_get_error(archive_.get()));
  static_cast<void>(archive_.release());  // closed
  zip_source_t* source = buffer_.get();
  zip_stat_t facts;
  std::string bytes;
  bool success = zip_source_stat(source, &facts) == 0 && zip_source_open(source) == 0;
  if (success) {
    bytes.resize(facts.size);
    success = zip_source_read(source, bytes.data(), bytes.size()) ==
              static_cast<zip_int64_t>(bytes.size());
    zip_source_close(source);
  }
  check_made(success, zip_source_error(source));
  return bytes;
}

}  // namespace curvature::detail
