// C++ as programs have it: exceptions through frames with destructors, iostreams, containers.

#include <algorithm>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Guard {
    std::string name;
    explicit Guard(std::string n) : name(std::move(n)) {}
    ~Guard() { std::cout << "left " << name << '\n'; }
};

int descend(int depth)
{
    Guard guard("frame " + std::to_string(depth));
    if (depth == 0)
        throw std::out_of_range("the bottom");
    return descend(depth - 1) + 1;
}

void exceptions()
{
    try {
        descend(3);
    } catch (const std::logic_error &error) {
        std::cout << "caught " << error.what() << '\n';
    }
    try {
        try {
            throw 42;
        } catch (int &value) {
            value++;
            throw;
        }
    } catch (int value) {
        std::cout << "rethrown " << value << '\n';
    }
    try {
        std::vector<int> few(3);
        few.at(7) = 1;
    } catch (const std::exception &) {
        std::cout << "caught a range\n";
    }
    try {
        auto much = std::make_unique<char[]>(1ULL << 46);
        std::cout << "got " << static_cast<void *>(much.get()) << '\n';
    } catch (const std::bad_alloc &) {
        std::cout << "no memory\n";
    }
}

void words()
{
    std::map<std::string, int> counts;
    std::string word;
    while (std::cin >> word)
        counts[word]++;
    for (const auto &[name, count] : counts)
        std::cout << std::setw(8) << name << std::hex << std::showbase << std::setw(6) << count
                  << std::dec << '\n';
}

void files()
{
    {
        std::ofstream out("numbers");
        for (int i = 0; i < 1000; i++)
            out << i * 0.125 << '\n';
    }
    std::ifstream in("numbers");
    double sum = 0, number;
    while (in >> number)
        sum += number;
    std::cout << std::fixed << std::setprecision(3) << sum << '\n';
    std::ifstream none("no/such/file");
    std::cout << std::boolalpha << none.is_open() << '\n';
    none.clear();
    none.exceptions(std::ios::failbit);
    try {
        none.open("no/such/file");
    } catch (const std::ios_base::failure &) {
        std::cout << "caught a failure\n";
    }
}

thread_local std::ostringstream local;

} // namespace

int main()
{
    exceptions();
    words();
    files();
    local << std::scientific << 1.0 / 3;
    std::cout << local.str() << std::endl;
    std::cerr << "done\n";
    std::vector<int> shuffled(1000);
    for (size_t i = 0; i < shuffled.size(); i++)
        shuffled[i] = static_cast<int>(i * 7919 % 1000);
    std::sort(shuffled.begin(), shuffled.end());
    return std::is_sorted(shuffled.begin(), shuffled.end()) ? 5 : 1;
}
