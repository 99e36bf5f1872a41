import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Publish events and print every answer once, as it comes.  Needs kafka-clients and jackson-databind.
 *
 * <p>java -cp 'libs/*' Answers.java localhost:9092 EVENTS-TOPIC KEY-FIELD PREDICTIONS-TOPIC < events.jsonl
 */
public class Answers {
    /** By partition: the highest claim so far, and the sequence number that comes next. */
    private final Map<Integer, long[]> held = new HashMap<>();

    /** Call it for every record of a partition, from the log's first one on. */
    boolean counts(ConsumerRecord<byte[], byte[]> sent, JsonNode value) {
        long[] now = held.computeIfAbsent(sent.partition(), partition -> new long[] {0, 0});
        long claim = value.get("claim").asLong();
        if (sent.headers().lastHeader("headrace-kind") != null) { // a worker has taken the partition over
            if (claim > now[0]) held.put(sent.partition(), new long[] {claim, 0});
            return false;
        }
        long sequence = value.get("sequence").asLong();
        if (claim != now[0] || claim == 0 || sequence < now[1]) return false; // replaced worker, or a repeat
        now[1] = sequence == now[1] ? sequence + 1 : Long.MAX_VALUE; // a gap: the rest does not count
        return now[1] != Long.MAX_VALUE;
    }

    public static void main(String[] given) throws Exception {
        var json = new ObjectMapper();
        Map<String, Object> settings = Map.of("bootstrap.servers", given[0]);
        var writes = new ByteArraySerializer();
        try (var producer = new KafkaProducer<>(settings, writes, writes)) {
            var lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8")).lines().toList();
            for (String line : lines) {
                byte[] key = json.readTree(line).get(given[2]).asText().getBytes("UTF-8");
                producer.send(new ProducerRecord<>(given[1], key, line.strip().getBytes("UTF-8")));
            }
        }
        var answers = new Answers();
        var reads = new ByteArrayDeserializer();
        try (var consumer = new KafkaConsumer<>(settings, reads, reads)) {
            var partitions = consumer.partitionsFor(given[3]).stream()
                .map(found -> new TopicPartition(found.topic(), found.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            while (true) {
                for (var sent : consumer.poll(Duration.ofSeconds(1))) {
                    JsonNode value = json.readTree(sent.value());
                    if (answers.counts(sent, value)) {
                        var score = value.get("prediction_score");
                        System.out.println(value.get("event_id").asText() + " " + score);
                    }
                }
            }
        }
    }
}
