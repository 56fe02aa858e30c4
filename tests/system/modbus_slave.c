/* Units 1 to 8 of a Modbus RTU bus, answered by libmodbus.
 *
 *     modbus_slave DEVICE
 *
 * libmodbus in RTU serves one unit for each context. A bus has one line: each request is read here, its unit becomes the
 * context's, and libmodbus judges and answers it over a socket pair. Registers of unit u: holding 1000 * u + i, input
 * 2000 * u + i; coils i % 3 == 0, discrete inputs i % 2 == 1. Prints a line when it is ready; ends when the line does.
 */
#include <fcntl.h>
#include <modbus/modbus.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { UNITS = 8, POINTS = 200 };

int main(int argc, char **argv)
{
    int line, pair[2];
    modbus_mapping_t *map[UNITS + 1] = {0};
    modbus_t *ctx;

    if (argc != 2)
        return 64;
    line = open(argv[1], O_RDWR | O_NOCTTY);
    ctx = modbus_new_rtu("/dev/null", 19200, 'N', 8, 1);
    if (line < 0 || ctx == NULL || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        return 73;
    modbus_set_socket(ctx, pair[0]);
    for (int unit = 1; unit <= UNITS; unit++) {
        map[unit] = modbus_mapping_new(POINTS, POINTS, POINTS, POINTS);
        for (int i = 0; i < POINTS; i++) {
            map[unit]->tab_bits[i] = i % 3 == 0;
            map[unit]->tab_input_bits[i] = i % 2;
            map[unit]->tab_registers[i] = 1000 * unit + i;
            map[unit]->tab_input_registers[i] = 2000 * unit + i;
        }
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH], answer[MODBUS_RTU_MAX_ADU_LENGTH];
        ssize_t size = read(line, query, sizeof query);
        int unit, got;

        if (size <= 0)
            return 0;
        unit = query[0];
        if (unit < 1 || unit > UNITS)
            continue;
        modbus_set_slave(ctx, unit);
        if (write(pair[1], query, size) != size)
            return 1;
        got = modbus_receive(ctx, query);
        if (got > 0)
            modbus_reply(ctx, query, got, map[unit]);
        while ((size = recv(pair[1], answer, sizeof answer, MSG_DONTWAIT)) > 0)
            if (write(line, answer, size) != size)
                return 1;
    }
}
