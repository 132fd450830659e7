package daemon

import (
	"container/list"
	"sync"
)

// lru keeps the most recently used values up to a total weight. Safe for
// concurrent use.
type lru[K comparable, V any] struct {
	mu     sync.Mutex
	max    int64
	weight int64
	order  *list.List // of *lruItem[K, V], most recent first
	items  map[K]*list.Element
}

type lruItem[K comparable, V any] struct {
	key    K
	value  V
	weight int64
}

// newLRU bounds the number of values.
func newLRU[K comparable, V any](max int64) *lru[K, V] { return newWeightedLRU[K, V](max) }

// newWeightedLRU bounds the sum of the weights given to putWeighted.
func newWeightedLRU[K comparable, V any](max int64) *lru[K, V] {
	return &lru[K, V]{max: max, order: list.New(), items: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(key K) (v V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	el, ok := l.items[key]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(el)
	return el.Value.(*lruItem[K, V]).value, true
}

func (l *lru[K, V]) put(key K, v V) { l.putWeighted(key, v, 1) }

func (l *lru[K, V]) putWeighted(key K, v V, weight int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(key)
	if weight > l.max {
		return
	}
	l.items[key] = l.order.PushFront(&lruItem[K, V]{key, v, weight})
	for l.weight += weight; l.weight > l.max; {
		l.drop(l.order.Back().Value.(*lruItem[K, V]).key)
	}
}

func (l *lru[K, V]) remove(key K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(key)
}

func (l *lru[K, V]) drop(key K) {
	if el, ok := l.items[key]; ok {
		l.order.Remove(el)
		delete(l.items, key)
		l.weight -= el.Value.(*lruItem[K, V]).weight
	}
}

func (l *lru[K, V]) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.order.Init()
	clear(l.items)
	l.weight = 0
}
