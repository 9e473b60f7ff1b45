/* The C contestant: consume COUNT messages, a line each to FILE, each acknowledged. ./consumer PORT COUNT FILE */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>

static void check(int good, const char *what) {
  if (!good) {
    fprintf(stderr, "%s failed\n", what);
    exit(1);
  }
}

static int normal(amqp_rpc_reply_t reply) { return reply.reply_type == AMQP_RESPONSE_NORMAL; }

int main(int argc, char **argv) {
  check(argc == 4, "usage: consumer PORT COUNT FILE:");
  long count = atol(argv[2]);
  FILE *out = fopen(argv[3], "wb");
  check(out != NULL, "fopen");
  amqp_connection_state_t connection = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(connection);
  check(socket && !amqp_socket_open(socket, "127.0.0.1", atoi(argv[1])), "connect");
  check(normal(amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest")), "login");
  amqp_channel_open(connection, 1);
  check(normal(amqp_get_rpc_reply(connection)), "channel.open");
  amqp_basic_qos(connection, 1, 0, 1000, 0);
  amqp_basic_consume(connection, 1, amqp_cstring_bytes("worker_queue"), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  check(normal(amqp_get_rpc_reply(connection)), "basic.consume");
  for (long done = 0; done < count; done++) {
    amqp_envelope_t envelope;
    amqp_maybe_release_buffers(connection);
    check(normal(amqp_consume_message(connection, &envelope, NULL, 0)), "consume");
    fwrite(envelope.message.body.bytes, 1, envelope.message.body.len, out);
    fputc('\n', out);
    check(!amqp_basic_ack(connection, 1, envelope.delivery_tag, 0), "basic.ack");
    amqp_destroy_envelope(&envelope);
  }
  check(!fclose(out), "fclose");
  check(normal(amqp_connection_close(connection, AMQP_REPLY_SUCCESS)), "close");
  check(amqp_destroy_connection(connection) >= 0, "destroy");
  return 0;
}
