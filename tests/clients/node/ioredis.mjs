// ioredis, unchanged: ready check, pipelines, autopipelining, scripts, streams, databases, reconnecting.
import Redis from 'ioredis'
import { assert, host, port, direct, main } from './common.mjs'

const open = (options = {}) => new Redis({ host, port, maxRetriesPerRequest: 3, ...options })

await main({
  'the ready check passes': async () => {
    // It asks for INFO and looks for `loading:0`.
    const r = open({ enableReadyCheck: true, lazyConnect: true })
    await r.connect()
    assert.equal(r.status, 'ready')
    assert.equal(await r.ping(), 'PONG')
    await r.quit()
  },
  'commands of all kinds work': async () => {
    const r = open({ connectionName: 'ioredis-test' })
    assert.equal(await r.set('k', 'v', 'EX', 100), 'OK')
    assert.equal(await r.get('k'), 'v')
    assert.equal(await r.get('none'), null)
    assert.equal(await r.client('GETNAME'), 'ioredis-test')
    await r.hset('h', { a: 1, b: 'two' })
    assert.deepEqual(await r.hgetall('h'), { a: '1', b: 'two' })
    await r.rpush('l', ...Array.from({ length: 1000 }, (_, i) => `item ${i}`))
    assert.equal((await r.lrange('l', 0, -1))[999], 'item 999')
    const raw = Buffer.from(Array.from({ length: 256 }, (_, i) => i))
    await r.set('raw', raw)
    assert.deepEqual(await r.getBuffer('raw'), raw)
    await assert.rejects(r.lpush('k', 1), /WRONGTYPE/)
    await r.xadd('stream', '*', 'field', 'value')
    assert.equal((await r.xrange('stream', '-', '+')).length, 1)
    assert.ok((await r.info()).includes('redis_version'))
    await r.quit()
  },
  'ten thousand commands in one pipeline answer in order': async () => {
    const r = open()
    const pipeline = r.pipeline()
    for (let i = 0; i < 5000; i++) pipeline.set(`p:${i}`, i).get(`p:${i}`)
    const replies = await pipeline.exec()
    for (let i = 0; i < 5000; i++) assert.deepEqual(replies[2 * i + 1], [null, String(i)])
    await r.quit()
  },
  'autopipelining gives each caller its own reply': async () => {
    const r = open({ enableAutoPipelining: true })
    await Promise.all(Array.from({ length: 2000 }, async (_, i) => {
      await r.set(`auto:${i}`, i)
      assert.equal(await r.get(`auto:${i}`), String(i))
      assert.equal(await r.incr(`count:${i}`), 1)
    }))
    await r.quit()
  },
  'scripts defined as commands run': async () => {
    const r = open()
    r.defineCommand('addTwice', { numberOfKeys: 1, lua: "redis.call('INCRBY',KEYS[1],ARGV[1]) return redis.call('INCRBY',KEYS[1],ARGV[1])" })
    assert.equal(await r.addTwice('n', 4), 8)
    assert.equal(await r.addTwice('n', 4), 16)
    await r.script('FLUSH')
    assert.equal(await r.addTwice('n', 1), 18)
    await r.quit()
  },
  'scan streams see every key': async () => {
    const r = open({ db: 7 })
    await r.mset(Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`scan:${i}`, i])))
    const seen = new Set()
    for await (const keys of r.scanStream({ match: 'scan:*', count: 100 })) keys.forEach(k => seen.add(k))
    assert.equal(seen.size, 2000)
    await r.select(8)
    assert.equal(await r.dbsize(), 0)
    await r.quit()
  },
  'many clients at once get their own replies': async () => {
    const clients = Array.from({ length: 100 }, () => open())
    await Promise.all(clients.map(async (r, n) => {
      for (let i = 0; i < 20; i++) {
        const [a, b] = await Promise.all([r.echo(`${n}.${i}`), r.eval('return ARGV[1]', 0, `${i}.${n}`)])
        assert.equal(a, `${n}.${i}`)
        assert.equal(b, `${i}.${n}`)
      }
    }))
    await Promise.all(clients.map(r => r.quit()))
  },
  'a killed client reconnects by itself': async () => {
    const r = open({ retryStrategy: () => 20 })
    const killer = open()
    await r.set('before', 1)
    const id = await r.client('ID')
    await killer.client('KILL', 'ID', id)
    assert.equal(await r.get('before'), '1')
    await Promise.all([r.quit(), killer.quit()])
  },
  ...(direct ? {} : {
    'a denied command is refused and the client goes on': async () => {
      const r = open()
      await assert.rejects(r.call('SHUTDOWN'), /Nearkey/)
      assert.equal(await r.echo('on'), 'on')
      await r.quit()
    },
  }),
})
