#include "chart/svg.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidegate::chart {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Chart, TextsOfOthersAreEscapedEverywhere) {
  const std::string evil = "<script>\"&";
  const std::string escaped = "&lt;script&gt;&quot;&amp;";
  for (const std::string& html :
       {BarChart({{evil, 1, true}}, evil, 1), LineChart({{evil, false, {{1, 1}}}}, evil, evil),
        Page(evil, "")}) {
    EXPECT_THAT(html, HasSubstr(escaped));
    EXPECT_THAT(html, Not(HasSubstr("<script>")));
  }
}

TEST(Chart, TheLargestBarFillsTheWidthAndTheOthersAreInProportion) {
  const std::string svg = BarChart({{"a", 2, false}, {"b", 4, true}, {"c", 0, false}}, "unit", 1);
  EXPECT_THAT(svg, HasSubstr("width=\"480.0\""));
  EXPECT_THAT(svg, HasSubstr("width=\"240.0\""));
  EXPECT_THAT(svg, HasSubstr("width=\"1.0\"")) << "nothing is a line, not gone";
}

TEST(Chart, SmallNumbersKeepTheirDigitsOnTheAxis) {
  const std::string svg = LineChart({{"rate", false, {{1, 0}, {2, 2e-4}}}}, "step", "rate");
  EXPECT_THAT(svg, HasSubstr(">0.0002<"));
  EXPECT_THAT(svg, HasSubstr(">5e-05<"));
}

TEST(Chart, NothingToDrawIsStillAPicture) {
  EXPECT_THAT(LineChart({}, "x", "y"), HasSubstr("</svg>"));
  EXPECT_THAT(BarChart({}, "x", 0), HasSubstr("</svg>"));
}

TEST(Chart, APageLoadsNothing) {
  const std::string page = Page("title", "<p>body</p>");
  for (const char* load : {"src=", "href=", "@import", "url("}) {
    EXPECT_THAT(page, Not(HasSubstr(load)));
  }
}

}  // namespace
}  // namespace tidegate::chart
