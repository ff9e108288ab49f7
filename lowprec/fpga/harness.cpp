// Runs a circuit that Verilator has translated, clock by clock. verilator.py compiles this together with what Verilator wrote
// (every name of which begins with Vsgd) and calls the program:
//
//     program FOLDER ROWS BEATS PASSES STEP FLUSH STALL SEED PATIENCE
//
// FOLDER holds `x` (ROWS * BEATS words of the port x_data), `labels` (ROWS words of x_label) and `start` (BEATS words of
// model_data_in); a word is whole bytes, the lowest bits first. The model at the end is written to `model`, in the same way,
// and what was counted to the standard output, as JSON. STALL is the fraction of clocks in which x_valid is low, at random,
// from SEED. PATIENCE is the number of clocks without a beat taken, or without becoming idle, after which the program gives
// up, with status 3. Without arguments it writes the widths of the ports, in bits, which it has as macros: WIDTH_ and the name.

#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "Vsgd.h"
#include "verilated.h"

namespace
{

using Bytes = std::vector<unsigned char>;

constexpr int NO_PROGRESS = 3;

// Clocks from an address to the word of the model that is there.
constexpr int READ_CLOCKS = 3;

constexpr std::size_t bytes_of(std::size_t bits) { return (bits + 7) / 8; }

constexpr std::size_t X_BYTES = bytes_of(WIDTH_x_data);
constexpr std::size_t LABEL_BYTES = bytes_of(WIDTH_x_label);
constexpr std::size_t MODEL_BYTES = bytes_of(WIDTH_model_data_in);

// A port is an integer of 8 to 64 bits or, beyond that, an array of 32-bit words, the lowest first: on a little-endian machine
// its first bytes are its lowest bits whatever it is. Verilator wants the bits beyond a port's width to be zero.
template <class Port> void put(Port &port, const unsigned char *word, std::size_t bytes)
{
    std::memset(static_cast<void *>(&port), 0, sizeof port);
    std::memcpy(static_cast<void *>(&port), word, bytes);
}

Bytes read(const std::string &path, std::size_t size)
{
    std::ifstream file(path, std::ios::binary);
    Bytes content(size);
    file.read(reinterpret_cast<char *>(content.data()), static_cast<std::streamsize>(size));
    if (static_cast<std::size_t>(file.gcount()) != size || file.peek() != std::ifstream::traits_type::eof()) {
        std::fprintf(stderr, "%s: must hold %zu bytes\n", path.c_str(), size);
        std::exit(1);
    }
    return content;
}

class Bench
{
  public:
    Vsgd top;
    std::uint64_t clocks = 0;
    std::uint64_t taken = 0; // beats
    std::uint64_t first = 0; // clocks before the one that took the first beat

    Bench(VerilatedContext *context, std::uint64_t patience) : top(context), patience_(patience) {}

    // One clock with the inputs as they are; whether a beat was taken. The first evaluation is for outputs that depend on inputs.
    bool clock()
    {
        top.clk = 0;
        top.eval();
        const bool taking = top.x_valid && top.x_ready;
        top.clk = 1;
        top.eval();
        if (taking && taken++ == 0)
            first = clocks;
        ++clocks;
        return taking;
    }

    void clock(int count)
    {
        while (count-- > 0)
            clock();
    }

    void wait_until_idle()
    {
        top.eval(); // idle may depend on an input that has just changed
        for (std::uint64_t waited = 0; !top.idle; ++waited) {
            if (waited == patience_)
                give_up("did not become idle");
            clock();
        }
    }

    void give_up(const char *what) const
    {
        std::fprintf(stderr, "the circuit %s within %" PRIu64 " clocks; it had taken %" PRIu64 " beats, in %" PRIu64 " clocks\n",
                     what, patience_, taken, clocks);
        std::exit(NO_PROGRESS);
    }

  private:
    std::uint64_t patience_;
};

// The rows, as a memory gives them that pauses now and then.
class Source
{
  public:
    Source(Bytes x, Bytes labels, std::uint64_t rows, std::uint64_t beats, double stall, std::uint64_t seed)
        : x_(std::move(x)), labels_(std::move(labels)), rows_(rows), beats_(beats), stall_(stall), random_(seed)
    {
    }

    void feed(Bench &bench, std::uint64_t patience)
    {
        for (std::uint64_t row = 0; row < rows_; ++row)
            for (std::uint64_t beat = 0; beat < beats_; ++beat)
                feed_beat(bench, row, beat, patience);
        bench.top.x_valid = 0;
    }

  private:
    void feed_beat(Bench &bench, std::uint64_t row, std::uint64_t beat, std::uint64_t patience)
    {
        present(bench, row, beat);
        bench.top.x_valid = 1;
        for (std::uint64_t waited = 0;; ++waited) {
            while (stall_ > 0 && pauses())
                pause(bench, row, beat);
            if (bench.clock())
                return;
            if (waited == patience)
                bench.give_up("did not take a beat");
        }
    }

    void present(Bench &bench, std::uint64_t row, std::uint64_t beat)
    {
        put(bench.top.x_data, &x_[(row * beats_ + beat) * X_BYTES], X_BYTES);
        put(bench.top.x_label, &labels_[row * LABEL_BYTES], LABEL_BYTES);
    }

    bool pauses() { return static_cast<double>(random_() >> 11) * 0x1p-53 < stall_; }

    // A clock in which nothing is valid shows a beat from anywhere, so that a circuit which takes it comes to other results.
    void pause(Bench &bench, std::uint64_t row, std::uint64_t beat)
    {
        present(bench, random_() % rows_, random_() % beats_);
        bench.top.x_valid = 0;
        bench.clock();
        present(bench, row, beat);
        bench.top.x_valid = 1;
    }

    Bytes x_;
    Bytes labels_;
    std::uint64_t rows_;
    std::uint64_t beats_;
    double stall_;
    std::mt19937_64 random_;
};

void write_model(Bench &bench, const Bytes &model, std::uint64_t beats)
{
    for (std::uint64_t beat = 0; beat < beats; ++beat) {
        bench.top.model_address = beat;
        put(bench.top.model_data_in, &model[beat * MODEL_BYTES], MODEL_BYTES);
        bench.top.model_write = 1;
        bench.clock();
    }
    bench.top.model_write = 0;
}

Bytes read_model(Bench &bench, std::uint64_t beats)
{
    Bytes model(beats * MODEL_BYTES);
    for (std::uint64_t beat = 0; beat < beats; ++beat) {
        bench.top.model_address = beat;
        bench.clock(READ_CLOCKS);
        std::memcpy(&model[beat * MODEL_BYTES], &bench.top.model_data_out, MODEL_BYTES);
    }
    return model;
}

std::uint64_t number(const char *text) { return std::strtoull(text, nullptr, 10); }

} // namespace

int main(int argc, char **argv)
{
    if (argc == 1) {
        std::printf("{\"step\": %d, \"x_data\": %d, \"x_label\": %d, \"model_address\": %d, \"model_data_in\": %d, "
                    "\"model_data_out\": %d}\n",
                    WIDTH_step, WIDTH_x_data, WIDTH_x_label, WIDTH_model_address, WIDTH_model_data_in, WIDTH_model_data_out);
        return 0;
    }
    if (argc != 10) {
        std::fprintf(stderr, "usage: %s FOLDER ROWS BEATS PASSES STEP FLUSH STALL SEED PATIENCE\n", argv[0]);
        return 2;
    }
    const std::string folder = argv[1];
    const std::uint64_t rows = number(argv[2]), beats = number(argv[3]), passes = number(argv[4]), patience = number(argv[9]);
    Source source(read(folder + "/x", rows * beats * X_BYTES), read(folder + "/labels", rows * LABEL_BYTES), rows, beats,
                  std::strtod(argv[7], nullptr), number(argv[8]));
    const Bytes start = read(folder + "/start", beats * MODEL_BYTES);

    const auto begin = std::chrono::steady_clock::now();
    const auto context = std::make_unique<VerilatedContext>();
    Bench bench(context.get(), patience);
    Vsgd &top = bench.top;
    top.x_valid = top.flush = top.model_write = 0;
    top.step = static_cast<CData>(number(argv[5]));
    top.rst = 1;
    bench.clock(2);
    top.rst = 0;
    bench.wait_until_idle();
    write_model(bench, start, beats);

    for (std::uint64_t pass = 0; pass < passes; ++pass)
        source.feed(bench, patience);
    top.flush = number(argv[6]) != 0;
    bench.wait_until_idle();
    const std::uint64_t cycles = bench.clocks - bench.first;

    const Bytes model = read_model(bench, beats);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::ofstream file(folder + "/model", std::ios::binary);
    file.write(reinterpret_cast<const char *>(model.data()), static_cast<std::streamsize>(model.size()));
    file.close();
    if (!file) {
        std::fprintf(stderr, "%s/model cannot be written\n", folder.c_str());
        return 1;
    }
    std::printf("{\"cycles\": %" PRIu64 ", \"clocks\": %" PRIu64 ", \"beats\": %" PRIu64 ", \"seconds\": %.9g}\n", cycles,
                bench.clocks, bench.taken, seconds.count());
}
