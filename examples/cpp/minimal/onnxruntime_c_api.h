// What explain.cpp uses of ONNX Runtime's C API, for machines that have the library (every Python wheel carries it)
// and not its headers. The API is a table of functions whose order never changes: here, functions that are not used are
// places of a pointer's size. Where the real header is at hand, use that: it needs no other change.

#ifndef ONNXCAM_MINIMAL_ONNXRUNTIME_C_API_H
#define ONNXCAM_MINIMAL_ONNXRUNTIME_C_API_H

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 14 /* of all that is used; newer libraries answer to older numbers */

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtValue OrtValue;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtModelMetadata OrtModelMetadata;

typedef enum { ORT_LOGGING_LEVEL_ERROR = 3 } OrtLoggingLevel;
typedef enum {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7
} ONNXTensorElementDataType;
typedef enum { OrtArenaAllocator = 1 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;

typedef struct OrtApi {
  void* from_0[2];
  const char* (*GetErrorMessage)(const OrtStatus* status); /* 2 */
  OrtStatus* (*CreateEnv)(OrtLoggingLevel level, const char* name, OrtEnv** made); /* 3 */
  void* from_4[3];
  OrtStatus* (*CreateSession)(const OrtEnv* env, const char* path, const OrtSessionOptions* options,
                              OrtSession** made); /* 7 */
  void* from_8[1];
  OrtStatus* (*Run)(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
                    const OrtValue* const* inputs, size_t input_count, const char* const* output_names,
                    size_t output_count, OrtValue** outputs); /* 9 */
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions** made); /* 10 */
  void* from_11[19];
  OrtStatus* (*SessionGetInputCount)(const OrtSession* session, size_t* count); /* 30 */
  void* from_31[5];
  OrtStatus* (*SessionGetInputName)(const OrtSession* session, size_t index, OrtAllocator* allocator,
                                    char** name); /* 36 */
  OrtStatus* (*SessionGetOutputName)(const OrtSession* session, size_t index, OrtAllocator* allocator,
                                     char** name); /* 37 */
  void* from_38[11];
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo* memory, void* data, size_t bytes,
                                               const int64_t* shape, size_t rank, ONNXTensorElementDataType type,
                                               OrtValue** made); /* 49 */
  void* from_50[1];
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** data); /* 51 */
  void* from_52[17];
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType allocator, OrtMemType type, OrtMemoryInfo** made); /* 69 */
  void* from_70[8];
  OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator** found); /* 78 */
  void* from_79[14];
  void (*ReleaseStatus)(OrtStatus* status); /* 93 */
  void* from_94[17];
  OrtStatus* (*SessionGetModelMetadata)(const OrtSession* session, OrtModelMetadata** found); /* 111 */
  void* from_112[4];
  OrtStatus* (*ModelMetadataLookupCustomMetadataMap)(const OrtModelMetadata* all, OrtAllocator* allocator,
                                                     const char* key, char** value); /* 116 */
} OrtApi;

typedef struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)(void);
} OrtApiBase;

#ifdef __cplusplus
extern "C"
#endif
const OrtApiBase* OrtGetApiBase(void);

#endif
