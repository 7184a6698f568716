#include <csignal>
#include <sys/stat.h>
#include <sys/resource.h>

#include <curvature/io/atomic_file.hpp>

#include "io/files.hpp"

BOOST_AUTO_TEST_SUITE(atomic_file_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(a_file_is_written_and_replaced) {
  const TemporaryFolder folder;
  const auto file = folder / "x.json";

  write_file_atomically(file, "first");
  BOOST_TEST(read_bytes(file) == "first");
  write_file_atomically(file, "second, longer");
  BOOST_TEST(read_bytes(file) == "second, longer");
  write_file_atomically(file, "");
  BOOST_TEST(read_bytes(file) == "");
  BOOST_TEST(folder.num_files() == 1U);
}

BOOST_AUTO_TEST_CASE(pieces_are_joined) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "x", [](const ByteSink& sink) {
    for (const std::string piece : {"one ", "", "two"}) sink(piece.data(), piece.size());
  });
  BOOST_TEST(read_bytes(folder / "x") == "one two");
}

BOOST_AUTO_TEST_CASE(a_writer_that_fails_leaves_the_old_file_and_nothing_else) {
  const TemporaryFolder folder;
  const auto file = write_bytes(folder / "x", "old");
  const auto fail = [&](const ByteSink& sink) {
    sink("half of the new", 15);
    BOOST_TEST(read_bytes(file) == "old");
    throw std::domain_error("interrupted");
  };
  BOOST_CHECK_EXCEPTION(write_file_atomically(file, fail), std::domain_error, says("interrupted"));
  BOOST_CHECK_THROW(write_file_atomically(folder / "new", fail), std::domain_error);

  BOOST_TEST(read_bytes(file) == "old");
  BOOST_TEST(folder.num_files() == 1U);
}

BOOST_AUTO_TEST_CASE(places_that_cannot_be_written_are_named) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "folder");
  BOOST_CHECK_EXCEPTION(write_file_atomically(folder / "missing" / "x", "a"), FileError,
                        says("opening its folder: No such file or directory"));
  BOOST_CHECK_EXCEPTION(write_file_atomically(folder / "folder", "a"), FileError,
                        says("it is a directory"));
  BOOST_CHECK_EXCEPTION(write_file_atomically(folder / "folder/", "a"), FileError,
                        says("no file is named"));
  BOOST_CHECK_EXCEPTION(write_file_atomically("", "a"), FileError, says("no file is named"));
  write_bytes(folder / "file", "");
  BOOST_CHECK_EXCEPTION(write_file_atomically(folder / "file" / "x", "a"), FileError,
                        says("Not a directory"));
  ::mkfifo((folder / "pipe").c_str(), 0600);
  BOOST_CHECK_EXCEPTION(write_file_atomically(folder / "pipe", "a"), FileError,
                        says("not a regular file"));
  BOOST_CHECK_EXCEPTION(write_file_atomically(folder / std::string(300, 'x'), "a"), FileError,
                        says("File name too long"));
  BOOST_TEST(folder.num_files() == 3U);
}

BOOST_AUTO_TEST_CASE(a_folder_without_permission_is_refused) {
  if (::geteuid() == 0) return;  // root may write anywhere
  const TemporaryFolder folder;
  std::filesystem::permissions(
      folder.path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  BOOST_CHECK_EXCEPTION(write_file_atomically(folder / "x", "a"), FileError,
                        says("Permission denied"));
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_all);
}

BOOST_AUTO_TEST_CASE(a_full_disk_is_reported) {
  // A limit on the size of files stands in for a full disk.
  const TemporaryFolder folder;
  const auto file = write_bytes(folder / "x", "old");
  rlimit before = {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 1000;
  ::setrlimit(RLIMIT_FSIZE, &small);
  std::string message;
  try {
    write_file_atomically(file, std::string(5000, 'x'));
  } catch (const FileError& error) {
    message = error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);

  BOOST_TEST(message.find("cannot be written: File too large") != std::string::npos);
  BOOST_TEST(read_bytes(file) == "old");
  BOOST_TEST(folder.num_files() == 1U);
}

BOOST_AUTO_TEST_CASE(a_symbolic_link_is_followed) {
  const TemporaryFolder folder;
  const auto file = write_bytes(folder / "file", "old");
  std::filesystem::create_symlink("file", folder / "link");
  write_file_atomically(folder / "link", "new");

  BOOST_TEST(read_bytes(file) == "new");
  BOOST_TEST(std::filesystem::is_symlink(folder / "link"));
}

BOOST_AUTO_TEST_CASE(new_files_have_the_usual_permissions) {
  const TemporaryFolder folder;
  write_bytes(folder / "usual", "");
  write_file_atomically(folder / "x", "");
  BOOST_TEST((std::filesystem::status(folder / "x").permissions() ==
              std::filesystem::status(folder / "usual").permissions()));
}

BOOST_AUTO_TEST_CASE(a_file_keeps_its_permissions_when_it_is_replaced) {
  const TemporaryFolder folder;
  const auto file = write_bytes(folder / "x", "old");
  const auto owner_only = std::filesystem::perms::owner_read | std::filesystem::perms::owner_write;
  std::filesystem::permissions(file, owner_only);
  write_file_atomically(file, "new");
  BOOST_TEST((std::filesystem::status(file).permissions() == owner_only));
  BOOST_TEST(read_bytes(file) == "new");
}

BOOST_AUTO_TEST_CASE(names_relative_to_the_current_folder_work) {
  const TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_file_atomically("x", "here");
  std::filesystem::current_path(before);
  BOOST_TEST(read_bytes(folder / "x") == "here");
}

BOOST_AUTO_TEST_SUITE_END()
