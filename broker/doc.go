// Package broker is the contract between Turnout and the clusters that carry messages: the portable Message, the
// Cluster interface that each kind of broker implements (broker/kafka, broker/rocketmq), and Offsets.
//
// Routing, retries over clusters, order over moves, dispatching to listeners and counting what is finished are written
// once, above this package. A driver knows one cluster and nothing of routes. broker/brokertest holds the suite that
// every driver passes.
//
// # How a message is mapped
//
//	part          Kafka                                   RocketMQ
//	Key           record key; murmur2 partitioner         property turnout-key (turnout-key-b64 when not UTF-8);
//	                                                      queue = murmur2 of the key
//	no key        partition by turns                      queue by turns
//	Body          record value                            body
//	Headers       record headers                          properties of the same name
//	Tag           header turnout-tag                      TAGS
//	ID            header turnout-id                       property turnout-id
//	Shadow        header turnout-shadow=1 (see Marked)    property turnout-shadow=1
//	Attempt       header turnout-attempt                  the broker's reconsume count
//	Origin        header turnout-origin                   property turnout-origin
//	Delay         refused                                 delay level, rounded up
//	retry topic   retry_{group}, header turnout-due       %RETRY%{group}, delay level
//	dead letters  dlq_{group}                             %DLQ%{group}
//	order         per partition                           per queue
package broker
