// Package count writes numbers with what they count, for people.
package count

import "fmt"

// Of is "1 partition" or "4 partitions".
func Of[N int | int32 | int64](n N, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, one)
	}
	return fmt.Sprintf("%d %s", n, many)
}
