# RabbitMQ's tutorials 1 to 6 with Bunny, as one program: see test_tutorials.py for its arguments.
require 'bunny'
require 'securerandom'

$stdout.sync = true
connection = Bunny.new(ENV.fetch('RABBITMQ_URL'))
connection.start
$channel = connection.create_channel

# Deliver to a block in Bunny's own thread, and wait here until it was called so many times.
def consume(queue, count, manual_ack: true)
  done = Queue.new
  queue.subscribe(manual_ack: manual_ack) do |delivery, properties, body|
    yield properties, body
    $channel.ack(delivery.delivery_tag) if manual_ack
    done << true
  end
  count.to_i.times { done.pop }
end

def say(body) = puts(body)

def send_(queue, *bodies)
  $channel.queue(queue)
  bodies.each { |body| $channel.default_exchange.publish(body, routing_key: queue) }
end

def receive(queue, count)
  consume($channel.queue(queue), count, manual_ack: false) { |_, body| say(body) }
end

def new_task(queue, *bodies)
  tasks = $channel.queue(queue, durable: true)
  bodies.each { |body| tasks.publish(body, persistent: true) }
end

def worker(queue, count)
  $channel.prefetch(1)
  consume($channel.queue(queue, durable: true), count) { |_, body| say(body) }
end

def emit_log(exchange, kind, key, body)
  $channel.exchange(exchange, type: kind, durable: true).publish(body, routing_key: key)
end

def receive_logs(exchange, kind, count, *keys)
  logs = $channel.exchange(exchange, type: kind, durable: true)
  queue = $channel.queue('', exclusive: true)
  keys.each { |key| queue.bind(logs, routing_key: key) }
  consume(queue, count, manual_ack: false) { |_, body| say(body) }
end

def rpc_client(queue, number)
  wanted = SecureRandom.uuid
  replies = $channel.queue('', exclusive: true)
  $channel.default_exchange.publish(number, routing_key: queue, correlation_id: wanted, reply_to: replies.name)
  consume(replies, 1, manual_ack: false) { |properties, body| say(body) if properties.correlation_id == wanted }
end

def rpc_server(queue, count)
  $channel.prefetch(1)
  consume($channel.queue(queue, durable: true), count) do |request, body|
    answer = (2 * body.to_i).to_s
    $channel.default_exchange.publish(answer, routing_key: request.reply_to, correlation_id: request.correlation_id)
  end
end

verb, *arguments = ARGV
send(verb == 'send' ? :send_ : verb, *arguments)
connection.close
