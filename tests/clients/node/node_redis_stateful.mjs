// node-redis, unchanged, where its connections carry state, in the protocol that TEST_PROTOCOL names.
import { createClient, createClientPool, defineScript, WatchError } from 'redis'
import { assert, host, port, main, until, untilBlocked } from './common.mjs'

const RESP = Number(process.env.TEST_PROTOCOL)
const range = n => Array.from({ length: n }, (_, i) => i)

async function open(options = {}) {
  const client = createClient({ socket: { host, port, reconnectStrategy: () => 20 }, RESP, ...options })
  client.on('error', () => {})
  await client.connect()
  return client
}

const admin = await open()
const blocked = n => untilBlocked(() => admin.info('clients'), n)

await main({
  'a transaction answers every command': async () => {
    const r = await open()
    const member = { score: 1.5, value: 'm' }
    assert.deepEqual(await r.multi().set('k', 'v').get('k').incr('n').zAdd('z', member).zScore('z', 'm').exec(),
      ['OK', 'v', 1, 1, 1.5])
    assert.deepEqual({ ...(await r.multi().hSet('h', 'a', '1').hGetAll('h').exec())[1] }, { a: '1' })
    await assert.rejects(r.multi().incr('n').lPush('k', 'x').incr('n').exec(), e => {
      assert.deepEqual(e.errorIndexes, [1])
      assert.deepEqual([e.replies[0], e.replies[2]], [2, 3])
      return true
    })
    await assert.rejects(r.multi().set('never', '1').addCommand(['NOSUCH']).exec(), /EXECABORT|unknown command/)
    assert.equal(await r.get('never'), null)
    assert.deepEqual(await r.multi().set('k', '1').incr('k').execAsPipeline(), ['OK', 2])
    r.destroy()
  },
  'transactions of one client at once keep apart': async () => {
    const r = await open()
    const counts = await Promise.all(range(200).map(async n => {
      const [first, , second, last] = await r.multi().incr('c').set('last', `${n}`).incr('c').get('last').exec()
      assert.deepEqual([second, last], [first + 1, `${n}`])
      return second
    }))
    assert.deepEqual(counts, range(200).map(n => 2 * n + 2))
    r.destroy()
  },
  'a watched key that changed is an error of its own': async () => {
    const r = await open()
    await r.watch('w')
    await admin.set('w', 'changed')
    await assert.rejects(r.multi().set('w', 'mine').exec(), WatchError)
    await r.watch(['w', 'other'])
    assert.deepEqual(await r.multi().set('w', 'mine').get('w').exec(), ['OK', 'mine'])
    await r.watch('w')
    await admin.set('w', 'changed')
    await r.unwatch()
    assert.deepEqual(await r.multi().get('w').exec(), ['changed'])
    r.destroy()
  },
  'isolated watch loops of a pool lose no update': async () => {
    const pool = createClientPool({ socket: { host, port }, RESP }, { minimum: 1, maximum: 8 })
    pool.on('error', () => {})
    await pool.connect()
    const increment = () => pool.execute(async client => {
      for (;;) {
        await client.watch('counter')
        const value = Number(await client.get('counter'))
        try {
          return await client.multi().set('counter', `${value + 1}`).exec()
        } catch (e) {
          if (!(e instanceof WatchError)) throw e
        }
      }
    })
    await Promise.all(range(60).map(increment))
    assert.equal(await pool.get('counter'), '60')
    pool.destroy()
  },
  'duplicates wait while the original works': async () => {
    const r = await open()
    const waiters = await Promise.all(range(6).map(() => r.duplicate().on('error', () => {}).connect()))
    const waits = waiters.map((w, n) => n % 2 ? w.blPop(`q:${n}`, 0) : w.blMove(`q:${n}`, 'moved', 'LEFT', 'RIGHT', 0))
    await blocked(6)
    for (const n of range(6)) await r.rPush(`q:${n}`, `for ${n}`)
    assert.deepEqual((await Promise.all(waits)).map(reply => reply.element ?? reply), range(6).map(n => `for ${n}`))
    assert.equal(await r.blPop('none', 0.05), null)
    await r.zAdd('bz', { score: 1, value: 'one' })
    assert.deepEqual({ ...(await r.bzPopMin('bz', 5)) }, { key: 'bz', value: 'one', score: 1 })
    waiters.forEach(w => w.destroy())
    r.destroy()
  },
  'a client that is destroyed while it waits takes nothing': async () => {
    const r = await open()
    const wait = assert.rejects(r.blPop('left', 0))
    await blocked(1)
    r.destroy()
    await wait
    await blocked(0)
    await admin.rPush('left', 'kept')
    assert.deepEqual(await admin.lRange('left', 0, -1), ['kept'])
  },
  'streams are read as they grow, alone and by groups': async () => {
    const [reader, one, two] = await Promise.all(range(3).map(() => open()))
    // The library's own xRead refuses to read a RESP3 reply, which is a map.
    const numbers = reply => (RESP === 3 ? reply.s : reply[0][1]).map(([, fields]) => fields[1])
    const wait = reader.sendCommand(['XREAD', 'BLOCK', '0', 'STREAMS', 's', '$'])
    await blocked(1)
    await admin.xAdd('s', '*', { n: '1' })
    assert.deepEqual(numbers(await wait), ['1'])
    assert.equal(await reader.sendCommand(['XREAD', 'BLOCK', '20', 'STREAMS', 's', '$']), null)
    await admin.xGroupCreate('s', 'g', '$')
    const waits = [one, two].map((c, n) =>
      c.sendCommand(['XREADGROUP', 'GROUP', 'g', `c${n}`, 'COUNT', '1', 'BLOCK', '0', 'STREAMS', 's', '>']))
    await blocked(2)
    const ids = [await admin.xAdd('s', '*', { n: '2' }), await admin.xAdd('s', '*', { n: '3' })]
    assert.deepEqual((await Promise.all(waits)).flatMap(numbers).sort(), ['2', '3'])
    assert.equal(await one.xAck('s', 'g', ids), 2)
    for (const c of [reader, one, two]) c.destroy()
  },
  'subscribers of channels, patterns and shard channels hear theirs': async () => {
    const [sub, shard] = [await open(), await open()]
    const heard = []
    const hear = kind => (message, channel) => heard.push([kind, `${channel}`, `${message}`])
    await sub.subscribe(['a', 'b'], hear('message'))
    await sub.subscribe('a', hear('buffer'), true)
    await sub.pSubscribe('a*', hear('pmessage'))
    await shard.sSubscribe('shard', hear('smessage'))
    assert.equal(await sub.ping(), RESP === 3 ? 'PONG' : 'pong')
    if (RESP === 3) {
      assert.equal(await sub.set('k', 'while subscribed'), 'OK')
      assert.deepEqual(await sub.multi().get('k').exec(), ['while subscribed'])
    }
    assert.equal(await admin.publish('a', '1'), 2)
    assert.equal(await admin.publish('b', '2'), 1)
    assert.equal(await admin.sPublish('shard', '3'), 1)
    await until(() => heard.length === 5, 'five messages')
    assert.deepEqual(heard.sort(), [
      ['buffer', 'a', '1'], ['message', 'a', '1'], ['message', 'b', '2'], ['pmessage', 'a', '1'],
      ['smessage', 'shard', '3']])
    await sub.unsubscribe(['a', 'b'])
    await sub.pUnsubscribe('a*')
    await shard.sUnsubscribe('shard')
    // Not subscribed any more, they are clients as any other.
    for (const r of [sub, shard]) {
      assert.equal(`${await r.set('after', '1')}`, 'OK')
      r.destroy()
    }
  },
  'fifty subscribers hear everything in order': async () => {
    const subs = await Promise.all(range(50).map(() => open()))
    const heard = subs.map(() => [])
    await Promise.all(subs.map((sub, n) => sub.subscribe(['all', `own:${n}`], message => heard[n].push(message))))
    await Promise.all(range(100).map(n => admin.publish('all', `${n}`)))
    await Promise.all(subs.map((_, n) => admin.publish(`own:${n}`, 'mine')))
    await until(() => heard.every(h => h.length === 101), 'all messages')
    for (const h of heard) assert.deepEqual(h, [...range(100).map(String), 'mine'])
    subs.forEach(sub => sub.destroy())
  },
  'a killed subscriber subscribes again by itself': async () => {
    const sub = await open()
    const heard = []
    const id = await sub.sendCommand(['CLIENT', 'ID'])
    await sub.subscribe('again', message => heard.push(message))
    await admin.sendCommand(['CLIENT', 'KILL', 'ID', `${id}`])
    await until(async () => (await admin.publish('again', 'back')) && heard.includes('back'), 'it is subscribed again')
    sub.destroy()
  },
  'a monitor sees what others do': async () => {
    const monitor = await open()
    const seen = []
    await monitor.monitor(line => seen.push(line.toString()))
    await admin.set('seen', 'by the monitor')
    await until(() => seen.some(s => s.includes('"SET" "seen" "by the monitor"')), 'the command is seen')
    monitor.destroy()
    assert.equal(await admin.get('seen'), 'by the monitor')
  },
  'scripts are loaded where they are missing': async () => {
    const bump = defineScript({
      NUMBER_OF_KEYS: 1,
      SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
      parseCommand: (parser, key, by) => { parser.pushKey(key); parser.push(`${by}`) },
      transformReply: reply => reply,
    })
    const r = await open({ scripts: { bump } })
    for (const turn of range(3)) {
      await admin.scriptFlush()
      assert.equal(await r.bump('b', 1), 2 * turn + 1)
      assert.deepEqual(await r.multi().bump('b', 1).get('b').exec(), [2 * turn + 2, `${2 * turn + 2}`])
    }
    r.destroy()
  },
  ...(RESP === 3 ? {
    'its client-side cache never stays stale': async () => {
      const r = await open({ clientSideCache: { ttl: 0, maxEntries: 100, evictPolicy: 'LRU' } })
      await admin.set('cached', '0')
      const calls = async () => Number(/cmdstat_get:calls=(\d+)/.exec(await admin.info('commandstats'))[1])
      for (const n of range(20)) {
        await until(async () => await r.get('cached') === `${n}`, 'the write is seen')
        const before = await calls()
        assert.deepEqual(await Promise.all(range(20).map(() => r.get('cached'))), Array(20).fill(`${n}`))
        assert.equal(await calls(), before)
        await admin.incr('cached')
      }
      r.destroy()
    },
  } : {}),
})
