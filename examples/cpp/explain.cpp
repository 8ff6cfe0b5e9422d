// Explain a picture with an exported model: the C API of ONNX Runtime, nothing else.
//
//     explain MODEL.onnx PICTURE.ppm HEATMAP.pfm [CLASS]

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const OrtApi* ort = nullptr;

void check(OrtStatus* status) {
  if (!status) return;
  const std::string why = ort->GetErrorMessage(status);
  ort->ReleaseStatus(status);
  throw std::runtime_error(why);
}

struct Picture {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;
};

Picture read_ppm(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int most = 0;
  Picture found;
  file >> kind >> found.width >> found.height >> most;
  file.get();
  if (!file || kind != "P6" || most != 255) throw std::runtime_error("a binary PPM of 8 bits is wanted");
  found.pixels.assign(std::istreambuf_iterator<char>(file), {});
  if (found.pixels.size() < size_t(3) * found.width * found.height) throw std::runtime_error("the PPM is cut off");
  return found;
}

// Rows of a PFM run from the bottom to the top.
void write_pfm(const char* path, const float* values, int height, int width) {
  std::ofstream file(path, std::ios::binary);
  file << "Pf\n" << width << " " << height << "\n-1.0\n";
  for (int r = height; r-- > 0;) file.write(reinterpret_cast<const char*>(values + size_t(r) * width), 4L * width);
  if (!file) throw std::runtime_error("the heatmap cannot be written");
}

// The record in the metadata is flat JSON: a number, a list of numbers or a text stands behind its key.
size_t behind(const std::string& json, const std::string& key) {
  const size_t at = json.find("\"" + key + "\":");
  if (at == std::string::npos) throw std::runtime_error("the metadata do not say " + key);
  return at + key.size() + 3;
}

float number(const std::string& json, const std::string& key) { return std::strtof(&json[behind(json, key)], nullptr); }

// One for each of three channels; one number stands for all.
std::vector<float> numbers(const std::string& json, const std::string& key) {
  const char* at = &json[json.find('[', behind(json, key))];
  std::vector<float> found;
  while (*at == '[' || *at == ',') {
    char* end = nullptr;
    found.push_back(std::strtof(at + 1, &end));
    at = end;
  }
  found.resize(3, found.at(0));
  return found;
}

std::string text(const std::string& json, const std::string& key) {
  const size_t from = json.find('"', behind(json, key)) + 1;
  return json.substr(from, json.find('"', from) - from);
}

std::vector<float> prepare(const Picture& picture, const std::string& how) {
  const std::vector<float> mean = numbers(how, "mean"), dev = numbers(how, "std");
  const float scale = number(how, "scale");
  const bool reversed = text(how, "color") == "BGR";
  const size_t area = size_t(picture.width) * picture.height;
  std::vector<float> x(3 * area);
  for (size_t c = 0; c < 3; ++c)
    for (size_t i = 0; i < area; ++i)
      x[c * area + i] = (picture.pixels[3 * i + (reversed ? 2 - c : c)] * scale - mean[c]) / dev[c];
  return x;
}

// A program that answers one question lets the system take its memory back.
struct Model {
  OrtEnv* env = nullptr;
  OrtSession* session = nullptr;
  OrtAllocator* allocator = nullptr;
  OrtMemoryInfo* memory = nullptr;

  explicit Model(const char* path) {
    OrtSessionOptions* options = nullptr;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "explain", &env));
    check(ort->CreateSessionOptions(&options));
    check(ort->CreateSession(env, path, options, &session));
    check(ort->GetAllocatorWithDefaultOptions(&allocator));
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  }

  std::string meta(const char* key) {
    OrtModelMetadata* all = nullptr;
    char* value = nullptr;
    check(ort->SessionGetModelMetadata(session, &all));
    check(ort->ModelMetadataLookupCustomMetadataMap(all, allocator, key, &value));
    if (!value) throw std::runtime_error(std::string("no exported model: its metadata lack ") + key);
    return value;
  }

  bool takes(const std::string& name) {
    size_t count = 0;
    check(ort->SessionGetInputCount(session, &count));
    for (size_t k = 0; k < count; ++k) {
      char* found = nullptr;
      check(ort->SessionGetInputName(session, k, allocator, &found));
      if (name == found) return true;
    }
    return false;
  }

  template <typename T>
  OrtValue* tensor(std::vector<T>& data, const std::vector<int64_t>& shape, ONNXTensorElementDataType type) {
    OrtValue* made = nullptr;
    check(ort->CreateTensorWithDataAsOrtValue(memory, data.data(), data.size() * sizeof(T), shape.data(), shape.size(),
                                              type, &made));
    return made;
  }
};

template <typename T>
const T* data(OrtValue* value) {
  void* found = nullptr;
  check(ort->GetTensorMutableData(value, &found));
  return static_cast<const T*>(found);
}

void run(const char* path, const char* ppm, const char* pfm, int64_t asked) {
  Model model(path);
  const Picture picture = read_ppm(ppm);
  const std::string how = model.meta("onnxcam/preprocess"), input = text(model.meta("onnxcam/export"), "input");
  std::vector<float> x = prepare(picture, how);
  std::vector<int64_t> wanted{asked};

  std::vector<const char*> names{input.c_str()};
  std::vector<const OrtValue*> values{
      model.tensor(x, {1, 3, picture.height, picture.width}, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)};
  if (model.takes("onnxcam/class")) {
    names.push_back("onnxcam/class");
    values.push_back(model.tensor(wanted, {1}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64));
  }
  char* scores = nullptr;
  check(ort->SessionGetOutputName(model.session, 0, model.allocator, &scores));
  const char* outputs[] = {scores, "class_index", "heatmap"};
  OrtValue* found[3] = {};
  check(ort->Run(model.session, nullptr, names.data(), values.data(), values.size(), outputs, 3, found));

  const int64_t index = data<int64_t>(found[1])[0];
  write_pfm(pfm, data<float>(found[2]), picture.height, picture.width);
  const float score = data<float>(found[0])[index];
  std::printf("{\"class_index\": %lld, \"score\": %.6f}\n", static_cast<long long>(index), score);
}

}  // namespace

int main(int count, char** given) {
  if (count != 4 && count != 5) {
    std::fprintf(stderr, "explain MODEL.onnx PICTURE.ppm HEATMAP.pfm [CLASS]\n");
    return 1;
  }
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!ort) {
    std::fprintf(stderr, "this ONNX Runtime is older than the header\n");
    return 1;
  }
  try {
    run(given[1], given[2], given[3], count == 5 ? std::atoll(given[4]) : -1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
