package history_test

import (
	"errors"
	"fmt"
	"os"

	"github.com/turnout-mq/turnout/testenv/history"
)

// A process that sends and handles, and the verdict on it: the second message never reaches the group.
func Example() {
	dir, err := os.MkdirTemp("", "history")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	rec, err := history.Create(dir, "order_service")
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, id := range []string{"m1", "m2", "m3"} {
		m := history.Message{ID: id, Topic: "order_topic", Key: "k1", Seq: int64(i + 1)}
		place := history.Place{Cluster: "kafka-a", Partition: "0", Offset: int64(i)}

		sending := rec.Send(m) // before Send is called
		if id == "m3" {
			sending.Unknown(errors.New("context deadline exceeded"))
		} else {
			sending.OK(place) // Send returned nil
		}
		if id != "m2" {
			handling := rec.Recv("order_bil_group", m, place) // first in the listener
			handling.Done()                                   // last in it
		}
	}
	if err := rec.Close(); err != nil {
		fmt.Println(err)
	}

	events, err := history.Load(dir)
	if err != nil {
		fmt.Println(err)
	}
	verdict := history.Check(events, history.Options{
		Groups: []history.Group{{Name: "order_bil_group", Ordered: true}},
		Allow:  []history.Rule{history.Duplicate, history.Unknown}, // a broker was stopped
	})
	fmt.Println("clean:", verdict.Clean)
	for _, f := range verdict.Findings {
		if f.Count > 0 {
			fmt.Printf("%s %d (%s), allowed: %v, for example %s\n", f.Rule, f.Count, f.Guarantee, f.Allowed, f.Examples[0].ID)
		}
	}
	// Output:
	// clean: false
	// unknown 1 (G3), allowed: true, for example m3
	// lost 1 (G1), allowed: false, for example m2
}
