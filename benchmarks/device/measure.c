/* Instructions and stack of fo_learn, fo_predict and, where there is room for a class, fo_add_class.
 *
 * qemu counts: with -icount shift=0 an instruction takes a nanosecond, and SysTick counts every 40 of them, at 25 MHz.
 * The stack is painted before a call and searched after. */
#include "training_step.h"

#include <stdint.h>

#define PAINTED 16384
#define OWN 64 /* the frame that calls, which is counted too */
#define COLOUR 0xc5c5c5c5u
#define NANOSECONDS_A_TICK 40u

void say(const char *text);

static volatile uint32_t *const systick = (volatile uint32_t *)0xe000e010; /* control, reload, value */
static fo_input example[FO_INPUTS];
static float scores[FO_CLASSES];

static void say_number(const char *name, uint32_t value)
{
    char digits[12];
    int at = 11;
    digits[at] = '\0';
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    say(name);
    say(" ");
    say(digits + at);
    say("\n");
}

static uint32_t randomness = 1;

static void draw(void)
{
    for (int i = 0; i < FO_INPUTS; i++) {
        randomness ^= randomness << 13;
        randomness ^= randomness >> 17;
        randomness ^= randomness << 5;
        example[i] = (fo_input)(randomness & 0xff);
    }
}

static void learn(void)
{
    (void)fo_learn(example, (int)(randomness % FO_CLASSES));
}

static void predict(void)
{
    (void)fo_predict(example, scores);
}

#if FO_SPARE_CLASSES
#define SHOWN 10 /* examples of a new class */
static fo_input examples[SHOWN * FO_INPUTS];

static uint32_t added;

static void add_class(void)
{
    added += fo_add_class(examples, SHOWN) == FO_OK;
}

/* Examples that differ less than random ones do, as those of one class. */
static void draw_class(void)
{
    for (int k = 0; k < SHOWN; k++) {
        draw();
        for (int i = 0; i < FO_INPUTS; i++) {
            examples[k * FO_INPUTS + i] = (fo_input)((int)example[i] / 2 + i % 2 * 100);
        }
    }
}
#endif

/* The bytes of stack that a call takes. */
static uint32_t __attribute__((noinline)) stack_of(void (*call)(void))
{
    uint32_t here;
    volatile uint32_t *const top = (volatile uint32_t *)((uintptr_t)&here - OWN);
    for (uint32_t i = 1; i <= PAINTED / 4; i++) {
        top[-(int32_t)i] = COLOUR;
    }
    call();
    uint32_t left = PAINTED / 4;
    while (left > 0 && top[-(int32_t)left] == COLOUR) {
        left--;
    }
    return 4 * left + OWN;
}

static uint32_t instructions_of(void (*call)(void), int times)
{
    uint32_t sum = 0;
    for (int i = 0; i < times; i++) {
        draw();
        systick[2] = 0;
        const uint32_t start = systick[2];
        call();
        sum += (start - systick[2]) & 0xffffff;
    }
    return sum / (uint32_t)times * NANOSECONDS_A_TICK;
}

static volatile uint32_t loops = 1000000;

static void known(void) /* three instructions a round: subtract, compare with zero and jump back, padded by a nop */
{
    uint32_t rounds = loops;
    __asm__ volatile("1: nop\n subs %0, #1\n bne 1b" : "+r"(rounds) : : "cc");
}

int main(void)
{
    systick[1] = 0xffffff;
    systick[0] = 5; /* on, by the processor's clock, without interrupts */
    say_number("known", instructions_of(known, 1));
    draw();
    say_number("stack_learn", stack_of(learn));
    say_number("stack_predict", stack_of(predict));
    for (int i = 1; i < FO_BATCH; i++) { /* the rest of the batch that has begun */
        learn();
    }
    say_number("learn", instructions_of(learn, FO_BATCH > 8 ? FO_BATCH : 8 / FO_BATCH * FO_BATCH));
    say_number("predict", instructions_of(predict, 4));
#if FO_SPARE_CLASSES
    draw_class();
    say_number("add_class", instructions_of(add_class, 1));
    say_number("stack_add_class", stack_of(add_class));
    say_number("added", added);
#endif
    return 0;
}
