#include <curvature/core/error.hpp>
#include <curvature/core/space.hpp>

BOOST_AUTO_TEST_SUITE(space_test)

using namespace curvature;

BOOST_AUTO_TEST_CASE(entries_lie_one_after_the_other) {
  const Space space({{"weight", {3, 4}}, {"scale", {}}, {"empty", {0, 2}}, {"bias", {4}}});
  BOOST_TEST(space.size() == 17);
  BOOST_TEST(space.entries()[1].offset == 12);
  BOOST_TEST(space.entries()[1].size == 1);
  BOOST_TEST(space.entries()[2].size == 0);
  BOOST_TEST(space.entries()[3].offset == 13);
  BOOST_TEST(space.describe() == "[3, 4] + [] + [0, 2] + [4]");
  BOOST_TEST(!space.is_flat());
  BOOST_TEST(Space::flat(5).is_flat());
  BOOST_TEST(Space().size() == 0);
}

BOOST_AUTO_TEST_CASE(split_and_join_are_inverses_in_row_major_order) {
  const Space space({{"weight", {2, 3}}, {"scale", {}}, {"bias", {2}}});
  for (const int64_t columns : {0, 1, 5}) {
    const at::Tensor flat = at::rand({9, columns}, at::kDouble);
    const TensorList list = space.split(flat);
    BOOST_TEST((list[0].sizes() == std::vector<int64_t>{2, 3, columns}));
    BOOST_TEST((list[1].sizes() == std::vector<int64_t>{columns}));
    BOOST_TEST(list[0].select(0, 1).select(0, 2).equal(flat.select(0, 5)));
    BOOST_TEST(space.join(list).equal(flat));
  }
}

BOOST_AUTO_TEST_CASE(contiguous_columns_stay_contiguous) {
  const Space space({{"weight", {2, 3}}, {"scale", {}}, {"bias", {2}}});
  const at::Tensor flat = at::rand({5, 9}, at::kDouble).t();
  TensorList columns;
  for (const at::Tensor& tensor : space.split(flat)) {
    columns.push_back(tensor.movedim(-1, 0).contiguous().movedim(0, -1));
  }
  const at::Tensor joined = space.join(columns);
  BOOST_TEST(joined.equal(flat));
  BOOST_TEST(joined.stride(0) == 1);
  BOOST_TEST(space.join(space.split(flat.contiguous())).is_contiguous());
}

BOOST_AUTO_TEST_CASE(names_are_labels) {
  const Space a({{"w", {2, 3}}, {"b", {3}}});
  BOOST_TEST((a == Space({{"x", {2, 3}}, {"y", {3}}})));
  BOOST_TEST(!(a == Space({{"w", {3, 2}}, {"b", {3}}})));
  BOOST_TEST(!(a == Space({{"b", {3}}, {"w", {2, 3}}})));
  BOOST_TEST(!(a == Space::flat(9)));
  BOOST_TEST(a.find("b").value() == 1u);
  BOOST_TEST(!a.find("c"));
  const Space part = a.subspace({1});
  BOOST_TEST(part.entries()[0].name == "b");
  BOOST_TEST(part.entries()[0].offset == 0);
  BOOST_TEST(part.size() == 3);
}

BOOST_AUTO_TEST_CASE(impossible_spaces_are_refused) {
  BOOST_CHECK_THROW(Space({{"w", {2}}, {"w", {3}}}), OptionError);
  BOOST_CHECK_THROW(Space({{"w", {2, -1}}}), OptionError);
  BOOST_CHECK_THROW(Space::flat(-1), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
