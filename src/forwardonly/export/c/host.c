/* Runs training_step.c on a computer: commands on standard input, answers on standard output.
 *   l LABEL(int32) EXAMPLE     fo_learn    -> status(int32)
 *   p EXAMPLE                  fo_predict  -> status(int32) SCORES(float32)
 *   a COUNT(int32) EXAMPLES     fo_add_class -> status(int32)
 *   s                          fo_save     -> BYTES
 *   w LENGTH(int32) BYTES      fo_load     -> status(int32)
 *   r RATE(float32)            sets the learning rate
 *   o                          -> the blocks' losses (float32)
 */
#include "training_step.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static fo_input example[FO_INPUTS];
static float scores[FO_CLASSES];
static unsigned char bytes[2 * FO_SAVED_BYTES];

static void get(void *to, size_t size)
{
    if (fread(to, 1, size, stdin) != size) {
        fprintf(stderr, "a command is cut off\n");
    }
}

static void answer(const void *from, size_t size)
{
    (void)fwrite(from, 1, size, stdout);
}

int main(void)
{
    for (int command = getchar(); command != EOF; command = getchar()) {
        int32_t number = 0;
        if (command == 'l') {
            get(&number, sizeof(number));
            get(example, sizeof(example));
            number = (int32_t)fo_learn(example, number);
            answer(&number, sizeof(number));
        } else if (command == 'p') {
            get(example, sizeof(example));
            number = (int32_t)fo_predict(example, scores);
            answer(&number, sizeof(number));
            answer(scores, sizeof(scores));
#if FO_SPARE_CLASSES
        } else if (command == 'a') {
            get(&number, sizeof(number));
            const size_t size = (size_t)number * sizeof(example);
            fo_input *examples = malloc(size + 1);
            if (examples == NULL) {
                return 1;
            }
            get(examples, size);
            number = (int32_t)fo_add_class(examples, number);
            free(examples);
            answer(&number, sizeof(number));
#endif
        } else if (command == 's') {
            fo_save(bytes);
            answer(bytes, FO_SAVED_BYTES);
        } else if (command == 'w') {
            get(&number, sizeof(number));
            get(bytes, (size_t)number);
            number = (int32_t)fo_load(bytes, (size_t)number);
            answer(&number, sizeof(number));
        } else if (command == 'r') {
            get(&fo_learning_rate, sizeof(fo_learning_rate));
        } else if (command == 'o') {
            answer(fo_loss, sizeof(fo_loss));
        } else {
            return 1;
        }
        (void)fflush(stdout);
    }
    return 0;
}
