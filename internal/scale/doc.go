// Package scale has the test that fills a platform with thousands of topics and groups and measures what people and servers do
// with them: make scale. What was seen is in docs/scale.md.
package scale
