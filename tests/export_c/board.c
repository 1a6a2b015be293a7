/* Learns random examples on the emulated board and prints the saved weights in hexadecimal digits. */
#include "training_step.h"

#include <stdint.h>

#define EXAMPLES 60

void say(const char *text);

static fo_input example[FO_INPUTS];
static unsigned char saved[FO_SAVED_BYTES];
static uint32_t state = 7;

static uint32_t draw(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

int main(void)
{
    static const char digits[] = "0123456789abcdef";
    char text[3] = {0, 0, 0};
    for (int k = 0; k < EXAMPLES; k++) {
        for (int i = 0; i < FO_INPUTS; i++) {
            example[i] = (fo_input)(draw() & 0xff);
        }
        (void)fo_learn(example, (int)(draw() % FO_CLASSES));
    }
    fo_save(saved);
    for (int i = 0; i < FO_SAVED_BYTES; i++) {
        text[0] = digits[saved[i] >> 4];
        text[1] = digits[saved[i] & 15];
        say(text);
    }
    return 0;
}
