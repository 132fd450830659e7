// A small C++ unit with heavy headers, as most units of real programs are:
// nearly all of the compile is reading headers and making templates.
#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

std::map<std::string, std::vector<int>> words(const std::string &text)
{
	std::map<std::string, std::vector<int>> found;
	static const std::regex word("[a-z]+");
	int n = 0;
	for (std::sregex_iterator i(text.begin(), text.end(), word), end; i != end; ++i)
		found[i->str()].push_back(n++);
	return found;
}

std::future<std::string> longest(std::shared_ptr<std::vector<std::string>> lines)
{
	return std::async(std::launch::async, [lines] {
		auto most = std::max_element(lines->begin(), lines->end(),
			[](const auto &a, const auto &b) { return a.size() < b.size(); });
		std::ostringstream out;
		if (most != lines->end())
			out << *most << ' ' << most->size();
		return out.str();
	});
}
