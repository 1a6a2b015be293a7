/* Start of a Cortex-M4 board with floating-point unit, and its output through semihosting; for qemu's mps2-an386. */
#include <stdint.h>

extern uint32_t stack_top[], data_start[], data_end[], data_load[], bss_start[], bss_end[];
int main(void);
void reset(void);
void stop(void);
void say(const char *text);

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    (void *)stack_top, (void *)reset, (void *)stop, (void *)stop, (void *)stop, (void *)stop, (void *)stop,
};

static void semihost(uint32_t operation, const void *argument)
{
    __asm__ volatile("mov r0, %0\n mov r1, %1\n bkpt 0xab" : : "r"(operation), "r"(argument) : "r0", "r1", "memory");
}

void say(const char *text)
{
    semihost(0x04, text); /* SYS_WRITE0 */
}

void stop(void)
{
    semihost(0x18, (const void *)0x20026); /* SYS_EXIT, application exit */
    for (;;) {
    }
}

void reset(void)
{
    const uint32_t *from = data_load;
    for (uint32_t *to = data_start; to < data_end; to++, from++) {
        *to = *from;
    }
    for (uint32_t *to = bss_start; to < bss_end; to++) {
        *to = 0;
    }
    *(volatile uint32_t *)0xe000ed88 |= 0xf << 20; /* CPACR: the floating-point unit is on */
    __asm__ volatile("dsb\n isb");
    (void)main();
    stop();
}
