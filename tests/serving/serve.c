/* Scores a clip with an export and no Python, as TensorFlow Serving's loader does.

     serve EXPORT SAMPLES WAV INPUT OUTPUT INPUT OUTPUT

   SAMPLES is a file of float32 at 16 kHz, WAV an encoded one. The tensors' names are
   those of `serving_default` and of `audio_bytes`, for example `x:0`; they differ between
   exports, and `saved_model_cli show --dir EXPORT --all` prints them. Prints a line of
   scores for either file.

   The libraries and headers of TensorFlow's pip package on Linux are enough:

     TF=$(python -c 'import tensorflow as tf; print(tf.sysconfig.get_lib())')
     cc -O1 -std=c11 -o serve serve.c "-I$TF/include" "-L$TF" "-Wl,-rpath,$TF" \
         -l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

static void require(int is_fine, const char *what, const char *why) {
  if (!is_fine) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
  }
}

static void require_ok(TF_Status *status, const char *what) {
  require(TF_GetCode(status) == TF_OK, what, TF_Message(status));
}

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  require(file != NULL, path, "cannot be opened");
  fseek(file, 0, SEEK_END);
  *size = ftell(file);
  rewind(file);
  char *content = malloc(*size + 1);
  require(fread(content, 1, *size, file) == *size, path, "cannot be read");
  fclose(file);
  return content;
}

/* [1, samples] */
static TF_Tensor *waveform(const char *path) {
  size_t size;
  char *content = read_file(path, &size);
  const int64_t shape[] = {1, (int64_t)(size / sizeof(float))};
  TF_Tensor *tensor = TF_AllocateTensor(TF_FLOAT, shape, 2, size);
  memcpy(TF_TensorData(tensor), content, size);
  free(content);
  return tensor;
}

/* [1] */
static TF_Tensor *encoded(const char *path) {
  size_t size;
  char *content = read_file(path, &size);
  const int64_t shape[] = {1};
  TF_Tensor *tensor = TF_AllocateTensor(TF_STRING, shape, 1, sizeof(TF_TString));
  TF_TString *string = TF_TensorData(tensor);
  TF_TString_Init(string);
  TF_TString_Copy(string, content, size);
  free(content);
  return tensor;
}

/* "name:0" -> output 0 of the operation called "name" */
static TF_Output endpoint(TF_Graph *graph, const char *tensor) {
  char name[256];
  const char *colon = strrchr(tensor, ':');
  require(colon != NULL && colon - tensor < 256, tensor, "is no tensor's name");
  snprintf(name, sizeof name, "%.*s", (int)(colon - tensor), tensor);
  TF_Output output = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
  require(output.oper != NULL, name, "is not in the graph");
  return output;
}

static void print_scores(TF_Session *session, TF_Graph *graph, TF_Tensor *value,
                         const char *input, const char *output) {
  TF_Status *status = TF_NewStatus();
  const TF_Output given = endpoint(graph, input), wanted = endpoint(graph, output);
  TF_Tensor *scores = NULL;
  TF_SessionRun(session, NULL, &given, &value, 1, &wanted, &scores, 1, NULL, 0, NULL,
                status);
  require_ok(status, output);
  require(TF_NumDims(scores) == 2 && TF_Dim(scores, 0) == 1, output, "is no row");
  const float *row = TF_TensorData(scores);
  for (int64_t label = 0; label < TF_Dim(scores, 1); ++label) {
    printf("%.9g ", row[label]);
  }
  printf("\n");
  TF_DeleteTensor(scores);
  TF_DeleteTensor(value);
  TF_DeleteStatus(status);
}

int main(int argc, char **argv) {
  require(argc == 8, "serve", "EXPORT SAMPLES WAV INPUT OUTPUT INPUT OUTPUT");
  const char *tags[] = {"serve"};
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1,
                                                     graph, NULL, status);
  require_ok(status, argv[1]);
  print_scores(session, graph, waveform(argv[2]), argv[4], argv[5]);
  print_scores(session, graph, encoded(argv[3]), argv[6], argv[7]);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
