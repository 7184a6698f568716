#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string_view>

namespace curvature {

/// Takes the next `size` bytes of a file.
using ByteSink = std::function<void(const void* data, size_t size)>;

/// Writes a file so that `path` holds either all of it or what it held before, also if the machine
/// stops: a temporary file in the same folder, synchronised and renamed. A symbolic link is
/// followed.
/// @throws FileError if the folder is missing or not writable, the disk is full, or `path` is there
/// and not a regular file; the temporary file is removed
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// The same for contents made piece by piece: `write` passes them to the sink it is given, front to
/// back. An exception thrown by `write` passes through, and `path` stays as it was.
void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(const ByteSink& sink)>& write);

}  // namespace curvature
